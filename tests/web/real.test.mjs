// The real binary with a random model and --guard replace: what it says is then the knowledge base's own.
// MUNI_ENGINE names the binary, MUNI_MODEL a model folder, as .ci/browser makes them; without them these tests are skipped.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { SKIP, assertAccessible, assertClean, assertNoSidewaysScroll, focused, folder, launch, openPage, picture } from "./lib.mjs";

const { MUNI_ENGINE, MUNI_MODEL } = process.env;
const skip = SKIP || (!(MUNI_ENGINE && MUNI_MODEL) && "MUNI_ENGINE and MUNI_MODEL name no binary and model (.ci/browser does)");
if (skip && process.env.MUNI_REQUIRE_BROWSER) throw new Error(skip);

/** Starts the server at a free port; the first line of its log names the port. */
async function serve(...options) {
  const child = spawn(MUNI_ENGINE, ["serve", "--model-path", MUNI_MODEL, "--knowledge", folder("../../knowledge"), "--guard", "replace",
    "--port", "0", "--device", "cpu", ...options], { stdio: ["ignore", "ignore", "pipe"] });
  const log = [];
  const port = await new Promise((resolve, reject) => {
    createInterface({ input: child.stderr }).on("line", (line) => {
      log.push(line);
      const found = /:(\d+)"/.exec(line);
      if (found) resolve(found[1]);
    });
    child.on("exit", (code) => reject(new Error(`serve ended with ${code}: ${log.join("\n")}`)));
  });
  return {
    url: `http://127.0.0.1:${port}`,
    log,
    async close() {
      const ended = once(child, "exit");
      child.kill("SIGTERM");
      const [code] = await ended;
      assert.equal(code, 0, log.slice(-5).join("\n"));
    },
  };
}

describe("the real server", { skip }, () => {
  let browser, host, listed, server;
  before(async () => {
    browser = await launch();
    host = createServer((_, response) => {
      response.writeHead(200, { "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": `default-src 'none'; script-src ${server.url}; connect-src ${server.url}` });
      response.end(`<!doctype html><html lang="de"><head><title>Stadt</title></head><body><main><h1>Stadt</h1></main>
        <script src="${server.url}/widget.js" defer data-office="standesamt"></script></body></html>`);
    });
    host.listen(0, "127.0.0.1");
    await once(host, "listening");
    listed = `http://localhost:${host.address().port}`;
    server = await serve("--allow-origin", listed, "--rate-limit", "0");
  });
  after(async () => {
    await browser?.close();
    host?.close();
    await server?.close();
  });

  const answers = (page) => page.locator("muni-chat .theirs");
  const put = async (page, question) => {
    await page.getByRole("textbox").fill(question);
    await page.getByRole("textbox").press("Enter");
  };

  test("a conversation on the page: office, legal source, date, a question that refers back, a refusal", async () => {
    const open = await openPage(browser);
    const { page } = open;
    const response = await page.goto(server.url);
    assert.match(response.headers()["content-security-policy"], /script-src 'self'/);
    await page.locator(".town").getByText("Musterstadt").waitFor();
    assert.equal(await page.locator("#liste > li").count(), 8);
    await put(page, "Wo kann ich mich ummelden?");
    const first = answers(page).nth(0);
    await first.getByText("Stand:").waitFor();
    await first.getByRole("heading", { name: "Einwohnermeldeamt" }).waitFor();
    // A model without sense, too, can only choose between true wordings.
    await first.getByText("Mit der Wissensbasis abgeglichen").waitFor();
    await first.getByText("§ 17 Abs. 1 BMG").first().waitFor();
    assert.match(await first.locator(".text").innerText(), /Einwohnermeldeamt|Meldebehörde|Bürgerbüro/);
    assert.doesNotMatch(await first.innerText(), /[{}]/, "a placeholder reached the citizen");
    await put(page, "Und was kostet das?");
    await answers(page).nth(1).getByText("Stand:").waitFor();
    await answers(page).nth(1).getByRole("heading", { name: "Einwohnermeldeamt" }).waitFor();
    await put(page, "Wo kann ich meine Steuerklasse ändern?");
    await answers(page).nth(2).getByText("Keiner Leistung der Stadt zuzuordnen").waitFor();
    const arrived = page.waitForResponse(/feedback/);
    await first.getByRole("button", { name: "Ja, hilfreich" }).click();
    await first.getByText("Danke für Ihre Rückmeldung.").waitFor();
    assert.equal((await arrived).status(), 204);
    const figures = await (await fetch(`${server.url}/metrics`)).text();
    assert.match(figures, /rating="up",office="einwohnermeldeamt",verdict="passed"\} 1/);
    await assertAccessible(page, "after a conversation");
    await picture(page, "real-page", { fullPage: true });
    await assertClean(open, [server.url]);
    await open.context.close();
    assert.doesNotMatch(server.log.join("\n"), /ummelden|Steuerklasse/, "the log holds a question");
  });

  test("every example that the widget offers is answered from the knowledge base", async () => {
    const open = await openPage(browser);
    await open.page.goto(server.url);
    const examples = open.page.locator("muni-chat .examples button");
    await examples.first().waitFor();
    const questions = await examples.allInnerTexts();
    assert.equal(questions.length, 3);
    for (const [i, question] of questions.entries()) {
      if (i === 0) await examples.first().click();
      else await put(open.page, question);
      await answers(open.page).nth(i).getByText("Stand:").waitFor();
    }
    await assertClean(open, [server.url]);
    await open.context.close();
  });

  test("the widget on another origin, with the keyboard alone, at 320 pixels", async () => {
    const open = await openPage(browser, { viewport: { width: 320, height: 640 } });
    const { page } = open;
    await page.goto(listed);
    await page.getByRole("button", { name: "Fragen?" }).waitFor();
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.keyboard.type("Wo bekomme ich eine Geburtsurkunde?");
    await page.keyboard.press("Enter");
    await answers(page).last().getByText("Stand:").waitFor();
    await answers(page).last().getByRole("heading", { name: "Standesamt" }).waitFor();
    assert.match(await focused(page), /^textarea/);
    await assertNoSidewaysScroll(page, "320 pixels");
    await assertAccessible(page, "320 pixels");
    await picture(page, "real-widget-320");
    await page.keyboard.press("Escape");
    assert.equal(await focused(page), "button Fragen?");
    await assertClean(open, [listed, server.url]);
    await open.context.close();
  });

  test("a page that is not listed is refused, and says so in plain words", async () => {
    const open = await openPage(browser);
    await open.page.goto(listed.replace("localhost", "127.0.0.1"));
    await open.page.getByRole("button", { name: "Fragen?" }).click();
    await put(open.page, "Wo kann ich mich ummelden?");
    await open.page.getByText("Die Auskunft ist im Augenblick nicht erreichbar.").first().waitFor();
    await open.context.close();
  });

  test("files are asked for again only when they have changed", async () => {
    for (const path of ["/", "/widget.js", "/page.css", "/datenschutz"]) {
      const first = await fetch(server.url + path);
      const tag = first.headers.get("etag");
      assert.match(tag, /^"[0-9a-f]{24}"$/);
      const again = await fetch(server.url + path, { headers: { "If-None-Match": tag } });
      assert.equal(again.status, 304);
    }
  });

  test("where conversations are kept, citizens are told", async () => {
    const keeping = await serve("--log-conversations", "/dev/null");
    const open = await openPage(browser);
    await open.page.goto(keeping.url);
    await open.page.getByText("Fragen und Antworten werden auf dem Server gespeichert.").first().waitFor();
    await assertClean(open, [keeping.url]);
    await open.context.close();
    await keeping.close();
  });
});
