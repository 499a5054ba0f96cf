// A server that says what a test tells it to, chunk by chunk: a stream that is held half-way, a broken connection or a full
// queue cannot be had from the real one on demand. The files it sends are the real ones, put together as src/serve/assets.rs does.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { folder } from "./lib.mjs";

const WEB = folder("../../src/serve/web/");
const ASSETS = readFileSync(folder("../../src/serve/assets.rs"), "utf8");

/** The policy that src/serve/assets.rs states; a backslash there joins lines. */
export const POLICY = /CONTENT_SECURITY_POLICY: &str = "([^"]*)"/.exec(ASSETS)[1].replace(/\\\n\s*/g, "");
const PARTS = [...ASSETS.matchAll(/include_str!\("(web\/widget\/[^"]+)"\)/g)].map((match) => match[1].slice(4));
/** widget.js, put together. */
export const WIDGET = `(() => {\n"use strict";\n${PARTS.map((part) => readFileSync(WEB + part, "utf8")).join("")}})();\n`;

const TYPES = { html: "text/html; charset=utf-8", css: "text/css; charset=utf-8", js: "text/javascript; charset=utf-8", svg: "image/svg+xml" };
const FILES = { "/": "index.html", "/datenschutz": "datenschutz.html", "/page.css": "page.css", "/page.js": "page.js", "/favicon.svg": "favicon.svg" };

export const OFFICES = {
  city: "Musterstadt",
  offices: [
    { id: "einwohnermeldeamt", name: "Einwohnermeldeamt", address: "Bürgerbüro im Rathaus, Rathausplatz 1, 12345 Musterstadt",
      phone: "01234 567-100", email: "buergerbuero@musterstadt.example",
      hours: "Montag bis Freitag 8:00 bis 12:30 Uhr, Dienstag und Donnerstag zusätzlich 14:00 bis 18:00 Uhr",
      services: [{ id: "ewo_anmeldung", title: "Anmeldung oder Ummeldung einer Wohnung" }, { id: "ewo_personalausweis", title: "Personalausweis beantragen" }] },
    { id: "standesamt", name: "Standesamt", address: "Altes Rathaus, Rathausplatz 3, 12345 Musterstadt", phone: "01234 567-300",
      email: "standesamt@musterstadt.example", hours: "Montag bis Freitag 8:00 bis 12:00 Uhr",
      services: [{ id: "sta_eheanmeldung", title: "Anmeldung der Eheschließung" }, { id: "sta_geburtsurkunde", title: "Geburtsurkunde beantragen" }] },
    { id: "stadtkasse", name: "Stadtkasse", address: "Rathausplatz 1, 12345 Musterstadt", phone: "01234 567-500",
      email: "stadtkasse@musterstadt.example", hours: "Montag bis Freitag 8:00 bis 12:00 Uhr",
      services: [{ id: "kas_hundesteuer", title: "Hundesteuer" }] },
  ],
  model: "muni-47m",
  notice: "",
  logs_conversations: false,
};

const { services: _, ...OFFICE } = OFFICES.offices[0];
/** What the server says about an answer, with whatever a test wants different. */
export const about = (changes = {}) => ({
  office: OFFICE, service: { id: "ewo_anmeldung", title: "Anmeldung oder Ummeldung einer Wohnung" }, sources: ["§ 17 Abs. 1 BMG"],
  checked_on: "2026-07-01", verdict: "passed", replace: null, logged: false, ...changes });

/** What a question back offers where a test says nothing else. */
export const OPTIONS = [
  { service: "ewo_reisepass", label: "Reisepass beantragen" },
  { service: "ewo_personalausweis", label: "Personalausweis beantragen" },
  { service: "ord_bewohnerparken", label: "Bewohnerparkausweis beantragen oder verlängern" },
];
/** The text of a question back: a sentence, and the labels for clients without buttons. */
export const questionBack = (options = OPTIONS) => {
  const list = options.map(({ label }, i) => `${i + 1}. ${label}`);
  return ["Geht es um eines dieser Anliegen?", "", ...list].join("\n");
};

/** One question that waits for its answer. */
class Exchange {
  constructor(request, response, body) {
    Object.assign(this, { request, response, body });
    this.gone = new Promise((resolve) => response.on("close", () => resolve(!response.writableEnded)));
  }

  fail(status, headers = {}, code = null) {
    this.response.writeHead(status, { ...this.response.getHeaders(), "Content-Type": "application/json", ...headers });
    this.response.end(JSON.stringify({ error: { message: "said by the test", type: "error", code, param: null } }));
  }

  begin() {
    this.response.writeHead(200, { ...this.response.getHeaders(), "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
    this.response.flushHeaders();
  }

  raw(bytes) {
    return new Promise((resolve) => this.response.write(bytes, resolve));
  }

  say(text, muni) {
    return this.raw(`data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: text }, finish_reason: null }], ...(muni && { muni }) })}\n\n`);
  }

  async end(muni) {
    await this.raw(`data: ${JSON.stringify({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }], muni })}\n\n`);
    this.response.end("data: [DONE]\n\n");
  }

  /** A whole answer at once. */
  async answer(text, muni = about()) {
    this.begin();
    await this.say(text, { ...muni, replace: null });
    await this.end(muni);
  }

  /** A question back; the last chunk has the options. */
  async askBack(options = OPTIONS, text = questionBack(options)) {
    const unsure = about({ verdict: "asked", office: null, service: null });
    this.begin();
    await this.say(text, unsure);
    await this.end({ ...unsure, options });
  }

  /** The connection breaks. */
  cut() {
    this.response.destroy();
  }
}

/** Starts the stand-in; `allow` is the origin that may use it from other pages, `pages` maps more paths to HTML. */
export async function standIn({ allow = null, pages = {}, offices = OFFICES, policy = POLICY } = {}) {
  const asked = [];
  const waiting = [];
  const ratings = [];
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, "http://x").pathname;
    if (allow && request.headers.origin === allow) {
      response.setHeader("Access-Control-Allow-Origin", allow);
      response.setHeader("Access-Control-Expose-Headers", "Retry-After");
    }
    if (request.method === "OPTIONS") {
      response.setHeader("Access-Control-Allow-Methods", "GET, POST");
      response.setHeader("Access-Control-Allow-Headers", "content-type, x-muni-widget");
      response.writeHead(204).end();
      return;
    }
    let body = "";
    for await (const chunk of request) body += chunk;
    if (path === "/v1/chat/completions") {
      const exchange = new Exchange(request, response, JSON.parse(body));
      const next = waiting.shift();
      if (next) next(exchange);
      else asked.push(exchange);
    } else if (path === "/api/feedback") {
      ratings.push(JSON.parse(body));
      response.writeHead(204).end();
    } else if (path === "/api/offices") {
      response.setHeader("Content-Type", "application/json");
      if (offices) response.end(JSON.stringify(offices));
      else response.writeHead(503).end("{}");
    } else if (path in pages) {
      response.writeHead(200, { "Content-Type": TYPES.html, ...pages[path].headers });
      response.end(pages[path].html);
    } else if (path === "/widget.js") {
      response.writeHead(200, { "Content-Type": TYPES.js, "Cross-Origin-Resource-Policy": "cross-origin" }).end(WIDGET);
    } else if (path in FILES) {
      response.writeHead(200, { "Content-Type": TYPES[FILES[path].split(".").pop()], "Content-Security-Policy": policy });
      response.end(readFileSync(WEB + FILES[path]));
    } else {
      response.writeHead(404).end();
    }
  });
  server.unref();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    /** The same server under another origin. */
    other: `http://localhost:${server.address().port}`,
    ratings,
    pages,
    /** The next question. */
    next: () => (asked.length > 0 ? Promise.resolve(asked.shift()) : new Promise((resolve) => waiting.push(resolve))),
    close: () => (server.closeAllConnections(), new Promise((resolve) => server.close(resolve))),
  };
}
