// The widget on somebody else's page: another origin, a strict policy there, odd styles there; and what a server says about itself.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { SKIP, assertClean, launch, openPage, picture } from "./lib.mjs";
import { OFFICES, about, standIn } from "./stand_in.mjs";

describe("the widget on another page", { skip: SKIP }, () => {
  let browser, host, server;
  before(async () => {
    browser = await launch();
    host = await standIn();
    server = await standIn({ allow: host.other });
    const page = (body, head = "") => `<!doctype html><html lang="de"><head><title>Stadt</title>${head}</head><body><h1>Stadt</h1>${body}</body></html>`;
    const policy = { "Content-Security-Policy": `default-src 'none'; style-src 'self'; script-src ${server.url}; connect-src ${server.url}; require-trusted-types-for 'script'` };
    const script = `<script src="${server.url}/widget.js" defer></script>`;
    host.pages["/strict"] = { html: page(script), headers: policy };
    host.pages["/twice"] = { html: page(`<muni-chat data-office="stadtkasse" data-title="Kasse"></muni-chat>${script}${script}`), headers: policy };
    host.pages["/elsewhere"] = { html: page(`<muni-chat data-server="${server.url}"></muni-chat><script src="/widget.js" defer></script>`) };
    host.pages["/styled"] = { html: page(script, `<style>* { all: unset; font-size: 3px !important; color: #fff !important; text-transform: uppercase }
      button, p, div { display: none !important } :root { font-size: 62.5% } muni-chat { display: block !important }</style>`) };
  });
  after(async () => {
    await browser?.close();
    await host?.close();
    await server?.close();
  });

  const start = (page) => page.getByRole("button", { name: "Fragen?" }).click();
  const put = (page, question) => page.getByRole("textbox").fill(question).then(() => page.getByRole("textbox").press("Enter"));

  test("one script tag, a foreign origin and a strict policy: it works, and asks nothing before it is opened", async () => {
    const open = await openPage(browser);
    const { page, watch } = open;
    await page.goto(`${host.other}/strict`);
    await page.getByRole("button", { name: "Fragen?" }).waitFor();
    assert.deepEqual(watch.paths.filter((path) => !path.endsWith("favicon.ico")), ["GET /strict", "GET /widget.js"]);
    await start(page);
    await put(page, "Wo kann ich mich ummelden?");
    const asked = await server.next();
    assert.equal(asked.request.headers.origin, host.other);
    assert.equal(asked.request.headers.referer, undefined);
    assert.equal(asked.request.headers.cookie, undefined);
    await asked.answer("Beim Einwohnermeldeamt.");
    await page.getByText("Stand: 1. Juli 2026").first().waitFor();
    assert.equal(await page.getByRole("link", { name: "Datenschutz" }).getAttribute("href"), `${server.url}/datenschutz`);
    await put(page, "Und was kostet das?");
    await (await server.next()).fail(429, { "Retry-After": "3" });
    await page.getByText("in 3 Sekunden").first().waitFor();
    await assertClean(open, [host.other, server.url]);
    await open.context.close();
  });

  test("a page that the server does not know gets a plain message", async () => {
    const open = await openPage(browser);
    await open.page.goto(`${host.url}/strict`);
    await start(open.page);
    await put(open.page, "Wo kann ich mich ummelden?");
    await open.page.getByText("Die Auskunft ist im Augenblick nicht erreichbar.").first().waitFor();
    await open.page.getByRole("button", { name: "Mit einem Menschen sprechen" }).click();
    await open.page.getByText("Die Kontaktdaten lassen sich gerade nicht laden.").first().waitFor();
    await open.context.close();
  });

  test("an element in the page is used, and the script may come twice", async () => {
    const open = await openPage(browser);
    await open.page.goto(`${host.other}/twice`);
    await start(open.page);
    assert.equal(await open.page.locator("muni-chat").count(), 1);
    await open.page.getByRole("heading", { name: "Kasse" }).waitFor();
    await open.page.getByRole("button", { name: "Was kostet die Hundesteuer?" }).waitFor();
    await assertClean(open, [host.other, server.url]);
    await open.context.close();
  });

  test("the server's address may be said", async () => {
    const open = await openPage(browser);
    await open.page.goto(`${host.other}/elsewhere`);
    await start(open.page);
    await put(open.page, "Wo kann ich mich ummelden?");
    await (await server.next()).answer("Beim Einwohnermeldeamt.");
    await open.page.getByText("Beim Einwohnermeldeamt.").first().waitFor();
    await assertClean(open, [host.other, server.url]);
    await open.context.close();
  });

  test("the page's styles do not reach into it", async () => {
    const open = await openPage(browser);
    await open.page.goto(`${host.other}/styled`);
    await start(open.page);
    const input = open.page.getByRole("textbox", { name: "Ihre Frage" });
    const style = await input.evaluate((element) => {
      const { fontSize, textTransform, color } = getComputedStyle(element);
      return { fontSize, textTransform, color };
    });
    assert.deepEqual(style, { fontSize: "16px", textTransform: "none", color: "rgb(22, 32, 42)" });
    await picture(open.page, "widget-styled");
    await open.context.close();
  });
});

describe("what the server says about itself", { skip: SKIP }, () => {
  let browser;
  before(async () => (browser = await launch()));
  after(() => browser?.close());

  test("citizens read it where conversations are kept", async () => {
    const server = await standIn({ offices: { ...OFFICES, logs_conversations: true } });
    const open = await openPage(browser);
    await open.page.goto(server.url);
    await open.page.getByText("Fragen und Antworten werden auf dem Server gespeichert.").first().waitFor();
    assert.equal(await open.page.getByText("Ihre Fragen werden nicht gespeichert.").count(), 0);
    await open.page.getByRole("button", { name: "Neues Gespräch" }).click();
    await open.page.getByText("Fragen und Antworten werden auf dem Server gespeichert.").first().waitFor();
    await open.page.goto(`${server.url}/datenschutz`);
    await open.page.getByText("Auf manchen Servern werden Gespräche gespeichert.").first().waitFor();
    await open.page.getByText("liegen nur im Arbeitsspeicher").first().waitFor({ state: "hidden" });
    await assertClean(open, [server.url]);
    await open.context.close();
    await server.close();
  });

  test("where nobody checks answers, none is said to be checked", async () => {
    for (const [guard, count] of [["off", 0], ["replace", 1]]) {
      const server = await standIn({ offices: { ...OFFICES, guard } });
      const open = await openPage(browser);
      await open.page.goto(server.url);
      await open.page.getByText("Ihre Fragen werden nicht gespeichert.").first().waitFor();
      await open.page.getByRole("textbox").fill("Wo kann ich mich ummelden?");
      await open.page.getByRole("textbox").press("Enter");
      await (await server.next()).answer("Beim Einwohnermeldeamt.");
      await open.page.getByText("Stand: 1. Juli 2026").first().waitFor();
      assert.equal(await open.page.locator("muni-chat .verdict").count(), count);
      await open.context.close();
      await server.close();
    }
  });

  test("without the list of offices questions are answered all the same", async () => {
    const server = await standIn({ offices: null });
    const open = await openPage(browser);
    await open.page.goto(server.url);
    await open.page.getByText("Die Kontaktdaten lassen sich gerade nicht laden.").first().waitFor();
    await open.page.getByRole("textbox").fill("Wo kann ich mich ummelden?");
    await open.page.getByRole("textbox").press("Enter");
    await (await server.next()).answer("Beim Einwohnermeldeamt.", about());
    await open.page.getByText("Stand: 1. Juli 2026").first().waitFor();
    await open.context.close();
    await server.close();
  });
});
