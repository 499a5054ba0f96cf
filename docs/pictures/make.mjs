// The pictures of README.md, from the real program and a real browser. Use, from the root:
//   node docs/pictures/make.mjs [--engine FILE] [--model runs/NAME/best_model]
// Without --model a model of one training step answers; the guard then replaces what it says by the
// knowledge base's answers. Needs what the browser tests need (.ci/setup installs it).
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { launch, openPage } from "../../tests/web/lib.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const here = fileURLToPath(new URL(".", import.meta.url));
const options = { engine: { type: "string" }, model: { type: "string" } };
const { values } = parseArgs({ options });
const engine = values.engine ?? join(root, "target/release/muni-engine");
const knowledge = join(root, "knowledge");
const LARGEST = 150_000;
const COLUMNS = 92;

/** A model folder: the one named, or one of a single training step. */
function modelFolder(work) {
  if (values.model) return values.model;
  const run = join(work, "run");
  execFileSync(engine, ["train", "--shards", join(root, "shards"), "--model-config",
    join(root, "tests/web/tiny_model.json"), "--out", run, "--max-steps", "1", "--device", "cpu"],
  { stdio: "ignore" });
  return join(run, "best_model");
}

/** A city's page with the widget in its corner. */
const cityPage = (script) => `<!doctype html><html lang="de"><head><meta charset="utf-8">
<title>Stadt Musterstadt</title><style>
  body { margin: 0; font: 17px/1.6 "DejaVu Sans", sans-serif; color: #1d2733; background: #f6f7f9 }
  header { background: #12395f; color: #fff; padding: 22px 56px; font: bold 23px "DejaVu Sans" }
  nav { background: #fff; border-bottom: 1px solid #d5dbe2; padding: 13px 56px; word-spacing: 22px }
  main { padding: 30px 56px; max-width: 640px }
  h1 { font-size: 32px; margin: 0 0 10px }
  ul { padding: 0; list-style: none }
  li { background: #fff; border: 1px solid #d5dbe2; border-radius: 6px; padding: 12px 18px;
       margin: 10px 0 }
</style></head><body><header>Stadt Musterstadt</header>
<nav>Rathaus Bürgerservice Leben Wirtschaft Kultur</nav>
<main><h1>Bürgerservice</h1><p>Was möchten Sie erledigen?</p><ul><li>Wohnung anmelden</li>
<li>Personalausweis und Reisepass</li><li>Kfz und Verkehr</li><li>Kita und Schule</li>
<li>Bauen und Wohnen</li></ul></main>${script}</body></html>`;

async function widget(model) {
  const browser = await launch();
  const host = createServer((_, response) => {
    response.writeHead(200, { "Content-Type": "text/html; charset=utf-8" });
    response.end(cityPage(`<script src="${url}/widget.js" defer></script>`));
  });
  host.listen(0, "127.0.0.1");
  await once(host, "listening");
  const origin = `http://localhost:${host.address().port}`;
  const server = spawn(engine, ["serve", "--model-path", model, "--knowledge", knowledge,
    "--port", "0", "--device", "cpu", "--allow-origin", origin],
  { stdio: ["ignore", "ignore", "pipe"] });
  let url;
  for await (const line of createInterface({ input: server.stderr })) {
    const port = /:(\d+)"/.exec(line)?.[1];
    if (port) {
      url = `http://127.0.0.1:${port}`;
      break;
    }
  }
  const { page } = await openPage(browser, { viewport: { width: 1200, height: 760 } });
  await page.goto(origin);
  await page.locator("muni-chat button").first().click();
  const box = page.getByRole("textbox");
  await box.fill("Bis wann muss ich mich ummelden?");
  await box.press("Enter");
  const chat = page.locator("muni-chat");
  await chat.getByText(/Stand: /).first().waitFor({ timeout: 60_000 });
  await page.evaluate(() => document.querySelector("muni-chat").shadowRoot.activeElement?.blur());
  await page.waitForTimeout(500);
  await page.screenshot({ path: join(here, "widget.png") });
  await browser.close();
  host.close();
  server.kill("SIGTERM");
}

/** Breaks a line at spaces, as a terminal of that width would be read best. */
function wrapped(line) {
  const lines = [""];
  for (const word of line.split(" ")) {
    const last = lines.at(-1);
    if (last && last.length + 1 + word.length > COLUMNS) lines.push(word);
    else lines[lines.length - 1] = last ? `${last} ${word}` : word;
  }
  return lines;
}

const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

/** One or more commands with what they print, as a drawn terminal. */
function terminal(sessions) {
  const rows = [];
  for (const { command, output } of sessions) {
    if (rows.length) rows.push({ kind: "out", text: "" });
    rows.push({ kind: "in", text: command });
    for (const line of output.trimEnd().split("\n")) {
      const kind = /^(Quelle: |Zuständig: |Auskunft aus der )/.test(line) ? "dim" : "out";
      for (const text of wrapped(line)) rows.push({ kind, text });
    }
  }
  const [width, step, top] = [Math.ceil(COLUMNS * 8.43) + 48, 21, 58];
  const height = top + rows.length * step + 10;
  const line = ({ kind, text }, row) => {
    const y = top + row * step;
    const body = kind === "in" ? `<tspan class="dollar">$ </tspan>${escaped(text)}` : escaped(text);
    return `<text x="24" y="${y}" class="${kind}" xml:space="preserve">${body}</text>`;
  };
  const size = `width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} role="img">
<title>A terminal session</title>
<style>
text { font: 14px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d6deea }
.in { fill: #fff; font-weight: bold }
.dollar { fill: #7ee787 }
.dim { fill: #8b98a9 }
</style>
<rect width="100%" height="100%" rx="10" fill="#141b24"/>
<circle cx="26" cy="22" r="6" fill="#ff5f57"/>
<circle cx="46" cy="22" r="6" fill="#febc2e"/>
<circle cx="66" cy="22" r="6" fill="#28c840"/>
${rows.map(line).join("\n")}
</svg>
`;
}

function session(model) {
  const ask = (question) => ({
    command: `echo "${question}" | muni-engine chat`,
    output: execFileSync(engine, ["chat", "--model-path", model, "--knowledge", knowledge],
      { input: `${question}\n`, encoding: "utf8", stdio: ["pipe", "pipe", "ignore"] }),
  });
  const questions = ["Bis wann muss ich mich ummelden?", "was kostet ein neuer perso",
    "Wo ändere ich meine Steuerklasse?"];
  writeFileSync(join(here, "terminal.svg"), terminal(questions.map(ask)));
}

const work = mkdtempSync(join(tmpdir(), "muni-pictures-"));
try {
  const model = modelFolder(work);
  session(model);
  await widget(model);
} finally {
  rmSync(work, { recursive: true });
}
for (const name of ["terminal.svg", "widget.png"]) {
  const { size } = statSync(join(here, name));
  console.log(`docs/pictures/${name}: ${size} bytes`);
  if (size > LARGEST) throw new Error(`${name} has ${size} bytes, more than ${LARGEST}`);
}
process.exit(0);
