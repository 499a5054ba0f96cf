// Making elements. Text is only ever set as text: nothing that a model or a server says is read as HTML.

const SVG = "http://www.w3.org/2000/svg";

const SHAPES = {
  chat: ["M4 5h16v11H10l-5 4v-4H4z", "M8 9h8M8 12.5h5"],
  close: ["M6 6l12 12M18 6L6 18"],
  send: ["M4 12h15M13 6l6 6-6 6"],
  stop: ["M7 7h10v10H7z"],
  office: ["M4 20h16M6 20V10M10 20V10M14 20V10M18 20V10M3.5 10L12 4l8.5 6z"],
  person: ["M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4.5 20.5c.8-4 3.8-6 7.5-6s6.7 2 7.5 6"],
  restart: ["M5 12a7 7 0 1 0 2.2-5.1M5 4v4h4"],
  passed: ["M5 12.5l4.5 4.5L19 7.5"],
  replaced: ["M5 4h11l3 3v13H5zM9 10h6M9 14h6"],
  marked: ["M12 4L2.5 20h19zM12 10v4.5M12 17.4v.1"],
  knowledge: ["M5 4h11l3 3v13H5zM9 10h6M9 14h6"],
  refused: ["M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM6 6l12 12"],
  up: ["M7 11v9H4v-9zM7 11l4-7c1.5 0 2.5 1 2 3l-.6 3H19c1 0 1.7 1 1.5 2l-1.3 6c-.2 1.2-1 2-2.2 2H7"],
  down: ["M7 13V4H4v9zM7 13l4 7c1.5 0 2.5-1 2-3l-.6-3H19c1 0 1.7-1 1.5-2l-1.3-6C19 4.8 18.2 4 17 4H7"],
};

/** A picture that says nothing to a screen reader: its neighbour's text does. */
function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("focusable", "false");
  for (const shape of SHAPES[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", shape);
    svg.append(path);
  }
  return svg;
}

/** An element with attributes (`on...` functions become listeners, null leaves one out) and children. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Texts that change with the language: each element remembers how to say its text, or one of its attributes. */
class Speech {
  #said = new Map();
  language = "alltag";

  get labels() {
    return LABELS[this.language];
  }

  /** A text node that is `say(labels)` in whichever language is on. */
  text(say) {
    const node = document.createTextNode(say(this.labels));
    this.#said.set(node, () => (node.data = say(this.labels)));
    return node;
  }

  /** Sets an attribute of `element` in the same manner. */
  attribute(element, name, say) {
    const set = () => element.setAttribute(name, say(this.labels));
    set();
    const before = this.#said.get(element);
    this.#said.set(element, before ? () => (before(), set()) : set);
    return element;
  }

  /** Says everything again in `language`; what has left the page is forgotten. */
  switchTo(language) {
    this.language = language;
    for (const [node, say] of this.#said) {
      if (node.isConnected) say();
      else this.#said.delete(node);
    }
  }
}

/** `text` with its web addresses as links; other text stays as it is. */
function linked(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(/https?:\/\/[^\s<>"'()]*[^\s<>"'().,;:!?]/g)) {
    nodes.push(text.slice(end, match.index), make("a", { href: match[0], target: "_blank", rel: "noopener noreferrer" }, match[0]));
    end = match.index + match[0].length;
  }
  nodes.push(text.slice(end));
  return nodes;
}

/** "2026-07-01" as "1. Juli 2026"; anything else as it is. */
function germanDate(day) {
  const date = new Date(`${day}T12:00:00Z`);
  if (Number.isNaN(date.getTime())) return day;
  return new Intl.DateTimeFormat("de-DE", { day: "numeric", month: "long", year: "numeric", timeZone: "UTC" }).format(date);
}

/** The first paragraph of a question back: what comes before the list of its options. */
const beforeList = (text) => text.split(/\n\s*(?:\n|\d+[.)]\s)/, 1)[0];

/**
 * A button for each service that a question may be about, and a last one for none of them. They are
 * disabled until the answer has come to its end. `onChoice(label, button)` gets the chosen one.
 */
function optionGroup(options, speech, onChoice, onOther) {
  const button = (onclick, text) =>
    make("button", { type: "button", disabled: true, onclick }, text);
  const group = make("div", { class: "options", role: "group" },
    ...options.map(({ label }) => button((event) => onChoice(label, event.currentTarget), label)),
    button(onOther, speech.text((l) => l.other)));
  return speech.attribute(group, "aria-label", (l) => l.options);
}

/** How to reach an office, as a description list; what the city left out is left out. */
function contactList(office, speech) {
  const list = make("dl");
  const row = (say, value) => value && list.append(make("dt", {}, speech.text(say)), make("dd", {}, value));
  const dial = office.phone?.replace(/[^\d+]/g, "");
  row((l) => l.phone, dial ? make("a", { href: `tel:${dial}` }, office.phone) : null);
  row((l) => l.email, office.email ? make("a", { href: `mailto:${office.email}` }, office.email) : null);
  row((l) => l.hours, office.hours);
  row((l) => l.address, office.address);
  return list;
}

/** What stands under an answer: how far it was checked, its legal sources, the day they were checked. */
function aboutAnswer(about, speech) {
  const box = make("div", { class: "about" });
  if (about.verdict in LABELS.alltag.verdict) {
    box.append(make("p", { class: "verdict" }, icon(about.verdict), make("span", {}, speech.text((l) => l.verdict[about.verdict]))));
  }
  const sources = about.sources ?? [];
  if (sources.length > 0) {
    box.append(make("p", { class: "law" }, speech.text((l) => `${l.law(sources.length)}: `), sources.join(", ")));
  }
  if (about.checked_on) {
    box.append(make("p", {}, speech.text((l) => l.checkedOn(germanDate(about.checked_on)))));
  }
  return box.childElementCount > 0 ? box : null;
}
