// How the widget looks: one constructable style sheet (a page's Content-Security-Policy has nothing to allow), light and
// dark, and a city's own colour made readable on both.

const SURFACE = { light: "#ffffff", dark: "#171c22" };
/** The accent stands on bubbles and buttons too; these are the least favourable grounds of each scheme. */
const GROUND = { light: "#eef2f6", dark: "#262e37" };
const ACCENT = { light: "#00518a", dark: "#8cc4f2" };

const LOOK = `
:host {
  all: initial;
  --surface: ${SURFACE.light}; --ground: ${GROUND.light}; --ink: #16202a; --soft: #4a5763; --line: #737f8c;
  --hair: #d5dce3; --accent: var(--accent-light, ${ACCENT.light}); --warn: #7a3d00; --warn-ground: #fff1dd;
  display: block;
}
/* What is inherited begins anew here and not at the host, which a page's own !important rules can reach. */
.frame {
  all: initial; display: block; color-scheme: light dark; color: var(--ink); direction: ltr;
  font: 400 max(1rem, 16px)/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif;
}
@media (prefers-color-scheme: dark) {
  :host {
    --surface: ${SURFACE.dark}; --ground: ${GROUND.dark}; --ink: #eef2f5; --soft: #b9c4cf; --line: #8794a1;
    --hair: #36414c; --accent: var(--accent-dark, ${ACCENT.dark}); --warn: #ffd29b; --warn-ground: #3b2a12;
  }
}
:host([hidden]), [hidden] { display: none !important; }
:host(:not([data-inline])) { position: fixed; inset: auto 0 0 auto; z-index: 2147483000; }
*, *::before, *::after { box-sizing: border-box; }
h2, h3, p, ul, dl, dd { margin: 0; padding: 0; }
svg { display: block; flex: none; width: 1.25em; height: 1.25em; fill: none; stroke: currentColor; stroke-width: 2;
  stroke-linecap: round; stroke-linejoin: round; }
a { color: var(--accent); text-underline-offset: .15em; }
.unseen { position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
button, select, textarea { font: inherit; color: inherit; }
button { display: inline-flex; align-items: center; gap: .45em; min-height: 2.25em; padding: .3em .7em; cursor: pointer;
  border: 1px solid var(--line); border-radius: .5em; background: var(--surface); line-height: 1.3; text-align: left; }
button:hover { border-color: var(--accent); color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.solid { background: var(--accent); border-color: var(--accent); color: var(--surface); font-weight: 600; }
.solid:hover { background: var(--ink); border-color: var(--ink); color: var(--surface); }
.plain { border-color: transparent; background: transparent; padding: .3em .5em; }
.square { justify-content: center; min-width: 2.25em; padding: .3em; }

.launcher { position: fixed; inset: auto max(1rem, env(safe-area-inset-right)) max(1rem, env(safe-area-inset-bottom)) auto;
  min-height: 3.25em; padding: .5em 1.3em .5em 1.1em; border-radius: 2em; font-size: 1.05em;
  box-shadow: 0 .25em 1.2em rgb(0 0 0 / .28); }
:host([data-inline]) .frame { height: 100%; }
.panel { display: flex; flex-direction: column; background: var(--surface); overflow: hidden; }
:host(:not([data-inline])) .panel { position: fixed; inset: auto 1.25rem 1.25rem auto; width: min(26rem, calc(100vw - 2.5rem));
  height: min(44rem, calc(100dvh - 2.5rem)); border: 1px solid var(--line); border-radius: 1em;
  box-shadow: 0 .5em 2.5em rgb(0 0 0 / .3); }
:host([data-inline]) .panel { height: 100%; min-height: 30em; border: 1px solid var(--line); border-radius: 1em; }

.head { display: flex; align-items: center; gap: .6em; padding: .7em .6em .7em 1.1em; border-bottom: 1px solid var(--hair); }
.head .mark { display: grid; place-items: center; width: 2.4em; height: 2.4em; border-radius: 50%; background: var(--accent); color: var(--surface); }
.head .names { flex: 1; min-width: 0; }
.head h2 { font-size: 1.06em; font-weight: 700; line-height: 1.25; overflow-wrap: anywhere; }
.head p { font-size: .875em; color: var(--soft); line-height: 1.3; }
.tools { display: flex; flex-wrap: wrap; gap: .1em .4em; padding: .4em 1.1em; border-bottom: 1px solid var(--hair); font-size: .875em; }
.tools button { border-color: var(--hair); padding-inline: .8em; }
.tools [aria-pressed="true"] { background: var(--accent); color: var(--surface); border-color: var(--accent); }
.tools .push { margin-left: auto; }

.body { flex: 1; display: flex; flex-direction: column; min-height: 0; overflow-y: auto; }
.log { position: relative; flex: 1; min-height: 4em; overflow-y: auto; overscroll-behavior: contain; padding: 1em 1.1em; display: flex;
  flex-direction: column; gap: 1em; }
.log:focus-visible { outline-offset: -3px; }
.note { padding: .8em 1em; border: 1px solid var(--hair); border-left: .3em solid var(--accent); border-radius: .5em;
  background: var(--ground); font-size: .9375em; }
.note h3 { font-size: 1.07em; font-weight: 700; margin-bottom: .2em; }
.note p + p { margin-top: .4em; }
.examples { display: flex; flex-direction: column; align-items: flex-start; gap: .45em; }
.examples p { font-size: .875em; color: var(--soft); }
.options { display: flex; flex-wrap: wrap; gap: .5em; }
.examples button, .options button { border-radius: 1.2em; padding: .35em .95em; font-size: .9375em;
  color: var(--accent); border-color: var(--accent); }
.examples button:hover, .options button:hover { background: var(--accent); color: var(--surface); }
.options button { min-height: max(2.95em, 44px); max-width: 100%; border-radius: 1.5em;
  overflow-wrap: anywhere; hyphens: auto; }
.options button:disabled { background: transparent; border-color: var(--hair); color: var(--soft);
  cursor: default; }
.options [aria-pressed="true"]:disabled { background: var(--accent); border-color: var(--accent);
  color: var(--surface); }
.mine { align-self: flex-end; max-width: 85%; padding: .55em .95em; border: 1px solid transparent; border-radius: 1.1em 1.1em .25em 1.1em;
  background: var(--accent); color: var(--surface); overflow-wrap: anywhere; white-space: pre-line; }
.theirs { align-self: stretch; max-width: 100%; display: flex; flex-direction: column; gap: .45em; }
.bubble { padding: .65em .95em .75em; border: 1px solid transparent; border-radius: .25em 1.1em 1.1em 1.1em; background: var(--ground); }
.theirs .desk { display: flex; align-items: center; gap: .4em; font-size: .875em; font-weight: 700; color: var(--accent); margin-bottom: .2em; }
.theirs .text { overflow-wrap: anywhere; white-space: pre-line; }
.theirs[aria-busy="true"] .text::after { content: ""; display: inline-block; width: .5em; height: 1.05em; margin-left: .15em;
  vertical-align: -.18em; background: var(--accent); animation: beat 1s steps(2) infinite; }
@keyframes beat { 50% { opacity: 0; } }
.theirs .about { margin-top: .6em; padding-top: .5em; border-top: 1px solid var(--line); font-size: .84em; color: var(--soft);
  display: flex; flex-direction: column; gap: .2em; }
.theirs .about .verdict { display: flex; gap: .4em; align-items: flex-start; }
.theirs .about svg { width: 1.1em; height: 1.1em; margin-top: .2em; }
.marked .verdict, .alarm { color: var(--warn); background: var(--warn-ground); border-radius: .4em; }
.marked .verdict { padding: .3em .5em; }
.alarm { padding: .65em .95em; border: 1px solid currentColor; display: flex; flex-direction: column; align-items: flex-start; gap: .5em; }
.after { display: flex; flex-wrap: wrap; gap: .3em .5em; align-items: center; font-size: .875em; color: var(--soft); }
.after .after { font-size: 1em; }
.after:empty { display: none; }
.after button { color: var(--ink); }
.after [aria-pressed="true"] { background: var(--accent); border-color: var(--accent); color: var(--surface); }

.desks { overflow-y: auto; max-height: 60%; flex: 0 1 auto; min-height: 6em; padding: .8em 1.1em 1em; border-top: 1px solid var(--line); background: var(--ground);
  display: flex; flex-direction: column; gap: .6em; }
.desks .row { display: flex; align-items: flex-start; justify-content: space-between; gap: .5em; }
.desks h3 { font-size: 1em; font-weight: 700; }
.desks label { font-size: .875em; font-weight: 600; }
.desks select { width: 100%; min-height: 2.5em; padding: .3em .5em; border: 1px solid var(--line); border-radius: .5em; background: var(--surface); }
.desks dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .25em .9em; font-size: .9375em; }
.desks dt { color: var(--soft); }
.desks dd { overflow-wrap: anywhere; }

.ask { flex: none; padding: .7em 1.1em .8em; border-top: 1px solid var(--hair); display: grid; grid-template-columns: minmax(0, 1fr) auto;
  gap: .3em .6em; align-items: end; }
.ask label { grid-column: 1 / -1; font-size: .875em; font-weight: 600; }
.ask textarea { width: 100%; min-height: 2.7em; max-height: 8em; resize: none; padding: .55em .8em; line-height: 1.4;
  border: 1px solid var(--line); border-radius: .6em; background: var(--surface); field-sizing: content; }
.ask textarea:focus { outline: 3px solid var(--accent); outline-offset: -1px; }
.ask button { min-height: 2.7em; padding: .4em .9em; }
.ask .left, .ask .hint { grid-column: 1 / -1; font-size: .8125em; color: var(--soft); }
.foot { flex: none; display: flex; flex-wrap: wrap; justify-content: space-between; align-items: center; gap: .1em .6em;
  padding: .25em .6em .45em; border-top: 1px solid var(--hair); font-size: .875em; }
.foot a { position: relative; padding: .45em .5em; }

@media (max-width: 30em) {
  :host(:not([data-inline])) .panel { inset: 0; width: 100%; height: 100dvh; border: 0; border-radius: 0; }
  .head, .foot { padding-inline: .5em; }
  .head { padding-left: .8em; }
  .tools { padding-inline: .8em; }
  .tools button { padding-inline: .6em; }
  .tools svg { display: none; }
  .desks dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .desks dd { margin-bottom: .4em; }
  .log, .ask, .desks { padding-inline: .8em; }
}
/* A magnified page is a low one: then everything but the title scrolls as one. */
@media (max-height: 34em) {
  :host(:not([data-inline])) .panel { inset: 0 0 0 auto; height: 100dvh; border-radius: 0; }
  :host(:not([data-inline])) .log { flex: none; overflow: visible; }
  .desks { max-height: none; flex: none; }
}
@media (max-height: 34em) and (max-width: 30em) {
  .head .mark, .head p { display: none; }
  .head { padding-block: .2em; }
}
@media print {
  .options { display: none; }
}
@media (prefers-reduced-motion: reduce) {
  .theirs[aria-busy="true"] .text::after { animation: none; }
}
@media (forced-colors: active) {
  .mine, .bubble, .launcher, .solid { border: 1px solid CanvasText; }
  .theirs[aria-busy="true"] .text::after { background: CanvasText; }
  [aria-pressed="true"] { forced-color-adjust: none; background: Highlight !important; color: HighlightText !important; }
}
`;

/** Red, green, blue of a colour written `#rrggbb`, 0 to 255. */
const hexChannels = (hex) => [1, 3, 5].map((start) => Number.parseInt(hex.slice(start, start + 2), 16));

/** The same of any CSS colour, read back from an element of the connected `root`; null where it is not a plain colour. */
function cssChannels(root, colour) {
  const probe = document.createElement("span");
  probe.style.color = colour;
  if (probe.style.color === "") return null;
  root.append(probe);
  const found = /^rgba?\((\d+), (\d+), (\d+)/.exec(getComputedStyle(probe).color);
  probe.remove();
  return found && found.slice(1, 4).map(Number);
}

/** Relative luminance, as WCAG 2 defines it. */
function luminance(rgb) {
  const [red, green, blue] = rgb.map((channel) => {
    const part = channel / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(one, other) {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}

/** `colour` moved towards black (light scheme) or white (dark) until text in it has 4.5:1 on the scheme's grounds. */
function readable(colour, scheme) {
  const grounds = [hexChannels(SURFACE[scheme]), hexChannels(GROUND[scheme])];
  const towards = scheme === "light" ? 0 : 255;
  let rgb = colour;
  for (let step = 0; step <= 20; step += 1) {
    rgb = colour.map((channel) => Math.round(channel + ((towards - channel) * step) / 20));
    if (grounds.every((ground) => contrast(rgb, ground) >= 4.5)) break;
  }
  return `rgb(${rgb.join(" ")})`;
}

/** The rules for a city's own colour; empty where it is not a colour, so that the widget keeps its own. */
function accentRules(root, colour) {
  const rgb = colour ? cssChannels(root, colour) : null;
  if (!rgb) return "";
  return `:host { --accent-light: ${readable(rgb, "light")}; --accent-dark: ${readable(rgb, "dark")}; }`;
}

function sheetOf(rules) {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(rules);
  return sheet;
}
