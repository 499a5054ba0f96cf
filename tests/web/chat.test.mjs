// A conversation in the widget: streaming, sources, corrections, stopping, errors, ratings.
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { SKIP, assertClean, launch, openPage } from "./lib.mjs";
import { WIDGET, about, standIn } from "./stand_in.mjs";

describe("the chat", { skip: SKIP }, () => {
  let browser, server, open, page;
  before(async () => {
    browser = await launch();
  });
  after(() => browser?.close());
  beforeEach(async () => {
    server = await standIn();
    open = await openPage(browser);
    page = open.page;
    await page.goto(server.url);
    await page.getByText("Ihre Fragen werden nicht gespeichert.").first().waitFor();
  });
  afterEach(async () => {
    await assertClean(open, [server.url]);
    await open.context.close();
    await server.close();
  });

  const input = () => page.getByRole("textbox", { name: "Ihre Frage" });
  const answers = () => page.locator("muni-chat .theirs");
  const said = () => page.locator("muni-chat [role=status]").innerText();
  async function put(question) {
    await input().fill(question);
    await input().press("Enter");
    return server.next();
  }

  test("says that it is a machine before anything is asked", async () => {
    const log = page.getByRole("log");
    await log.getByRole("heading", { name: "Sie sprechen mit einer Maschine." }).waitFor();
    assert.match(await log.innerText(), /künstlicher Intelligenz und kein Mensch/);
    assert.deepEqual(await log.getByRole("button").allInnerTexts(),
      ["Wo kann ich mich ummelden?", "Bis wann muss ich meinen Hund anmelden?", "Welche Unterlagen brauchen wir, um standesamtlich zu heiraten?"]);
  });

  test("shows an answer while it comes, and announces it when it is whole", async () => {
    const asked = await put("Wo kann ich mich ummelden?");
    assert.deepEqual(asked.body, { model: "muni-47m", messages: [{ role: "user", content: "Wo kann ich mich ummelden?" }], stream: true });
    assert.equal(asked.request.headers["x-muni-widget"], "1");
    asked.begin();
    await asked.say("Zuständig ist ", about());
    const answer = answers().last();
    await answer.getByText("Zuständig ist").waitFor();
    assert.equal(await answer.getAttribute("aria-busy"), "true");
    assert.equal(await answer.getAttribute("data-ai-generated"), "true");
    await answer.getByRole("heading", { name: "Einwohnermeldeamt" }).waitFor();
    assert.equal(await said(), "Die Antwort wird geschrieben.");
    assert.equal(await page.getByRole("log").getAttribute("aria-live"), "off");
    await asked.say("das Einwohnermeldeamt.");
    await answer.getByText("Zuständig ist das Einwohnermeldeamt.").waitFor();
    assert.equal(await page.getByRole("button", { name: "Anhalten" }).isVisible(), true);
    assert.equal(await answer.getByText("Rechtsgrundlage").count(), 0);

    await asked.end(about());
    await answer.getByText("Rechtsgrundlage: § 17 Abs. 1 BMG").waitFor();
    await answer.getByText("Stand: 1. Juli 2026").waitFor();
    await answer.getByText("Mit der Wissensbasis abgeglichen").waitFor();
    assert.equal(await answer.getAttribute("aria-busy"), null);
    assert.match(await said(), /^Antwort: Einwohnermeldeamt\. Zuständig ist das Einwohnermeldeamt\. .*§ 17 Abs\. 1 BMG/s);
    assert.equal(await page.evaluate(() => document.querySelector("muni-chat").shadowRoot.activeElement?.id), "question");
    await page.getByRole("button", { name: "Senden" }).waitFor();

    const next = await put("Und was kostet das?");
    assert.deepEqual(next.body.messages.map((m) => [m.role, m.content]), [
      ["user", "Wo kann ich mich ummelden?"], ["assistant", "Zuständig ist das Einwohnermeldeamt."], ["user", "Und was kostet das?"]]);
    await next.answer("Die Ummeldung ist gebührenfrei.");
    await answers().last().getByText("gebührenfrei").waitFor();
  });

  test("reads a stream however the network cuts it", async () => {
    const asked = await put("Was kostet ein Pass?");
    asked.begin();
    const line = Buffer.from(`: warten\r\n\r\ndata: {"choices":[{"delta":{"content":"Für 70 € – §\u00a015"}}]}\r\n\r\n`);
    for (const byte of line) await asked.raw(Buffer.of(byte));
    await answers().last().getByText("Für 70 € – § 15").waitFor();
    await asked.end(about());
    await answers().last().getByText("Stand: 1. Juli 2026").waitFor();
  });

  test("puts the knowledge base's wording in the place of what was wrong", async () => {
    const asked = await put("Was kostet ein Personalausweis?");
    asked.begin();
    await asked.say("Ein Personalausweis kostet", about());
    await answers().last().getByText("Ein Personalausweis kostet").waitFor();
    await asked.end(about({ verdict: "replaced", replace: "Die Gebühr beträgt 46 Euro." }));
    await answers().last().getByText("Wortlaut aus der Wissensbasis").waitFor();
    assert.equal(await answers().last().locator(".text").innerText(), "Die Gebühr beträgt 46 Euro.");
    assert.match(await said(), /^Die Antwort wurde berichtigt\. .*46 Euro/);
    const next = await put("Und für Kinder?");
    assert.equal(next.body.messages[1].content, "Die Gebühr beträgt 46 Euro.");
    await next.answer("Das ist hier nicht geregelt.", about({ verdict: "marked", sources: [], checked_on: null }));
    await answers().last().getByText("Nicht alle Angaben ließen sich prüfen. Bitte fragen Sie beim Amt nach.").waitFor();
    const last = await put("Wie wird das Wetter?");
    await last.answer("Dazu kann ich nichts sagen.", about({ verdict: "refused", office: null, service: null, sources: [], checked_on: null }));
    await answers().last().getByText("Keiner Leistung der Stadt zuzuordnen").waitFor();
    assert.equal(await answers().last().getByRole("button", { name: /Kontakt/ }).count(), 0);
    const thanks = await put("Danke!");
    await thanks.answer("Gern geschehen.", about({ office: null, service: null, sources: [], checked_on: null }));
    await answers().last().getByRole("button", { name: "Ja, hilfreich" }).waitFor();
    assert.equal(await answers().last().locator(".about").count(), 0);
  });

  test("shows text as text, and web addresses as links when the answer is whole", async () => {
    const asked = await put("Wo gibt es Termine?");
    await asked.answer('<img src=x onerror="alert(1)"> Termine unter https://termine.musterstadt.example/buergerbuero.');
    const link = answers().last().getByRole("link");
    assert.equal(await link.getAttribute("href"), "https://termine.musterstadt.example/buergerbuero");
    assert.match(await link.getAttribute("rel"), /noopener/);
    assert.equal(await answers().last().locator("img").count(), 0);
    assert.match(await answers().last().locator(".text").innerText(), /^<img src=x onerror="alert\(1\)"> Termine/);
  });

  test("stops when asked to, and goes on with the next question", async () => {
    const asked = await put("Wo kann ich mich ummelden?");
    asked.begin();
    await asked.say("Zuständig ist");
    await answers().last().getByText("Zuständig ist").waitFor();
    await page.getByRole("button", { name: "Anhalten" }).click();
    assert.equal(await asked.gone, true, "the server was not told");
    await answers().last().getByText("Angehalten.").waitFor();
    assert.equal(await page.evaluate(() => document.querySelector("muni-chat").shadowRoot.activeElement?.id), "question");
    const next = await put("Was kostet das?");
    assert.deepEqual(next.body.messages.map((m) => m.role), ["user", "assistant", "user"]);
    await next.answer("Nichts.");
    await answers().last().getByText("Nichts.").waitFor();
  });

  test("a new conversation forgets the old one, also in the middle of an answer", async () => {
    const asked = await put("Wo kann ich mich ummelden?");
    asked.begin();
    await asked.say("Zuständig ist");
    await page.getByRole("button", { name: "Neues Gespräch" }).click();
    assert.equal(await asked.gone, true);
    assert.equal(await answers().count(), 0);
    await page.getByRole("heading", { name: "Sie sprechen mit einer Maschine." }).waitFor();
    const next = await put("Wo beantrage ich Wohngeld?");
    assert.equal(next.body.messages.length, 1);
    await next.answer("Beim Sozialamt.");
    await answers().last().getByText("Beim Sozialamt.").waitFor();
  });

  test("says in plain words what went wrong, and asks again on request", async () => {
    const cases = [
      [(asked) => asked.fail(429, { "Retry-After": "7" }), "Bitte versuchen Sie es in 7 Sekunden noch einmal."],
      [(asked) => asked.fail(429), "Bitte versuchen Sie es gleich noch einmal."],
      [(asked) => asked.fail(503), "Die Auskunft ist im Augenblick nicht erreichbar."],
      [(asked) => asked.fail(500), "Die Frage konnte nicht beantwortet werden."],
      [(asked) => asked.fail(401), "Die Auskunft ist auf dieser Seite nicht freigeschaltet."],
      [(asked) => asked.fail(413), "Die Frage ist zu lang."],
      [(asked) => asked.fail(400, {}, "context_length_exceeded"), "Die Frage ist zu lang."],
      [async (asked) => {
        asked.begin();
        await asked.say("Zuständig");
        await answers().last().getByText("Zuständig").waitFor();
        asked.cut();
      }, "Die Verbindung wurde unterbrochen, bevor die Antwort vollständig war."],
      [async (asked) => {
        asked.begin();
        await asked.raw('data: {"error":{"message":"x","type":"server_error","code":"timeout","param":null}}\n\n');
      }, "Die Antwort hat zu lange auf sich warten lassen."],
    ];
    for (const [fail, words] of cases) {
      const asked = await put("Wo kann ich mich ummelden?");
      await fail(asked);
      await answers().last().getByText(words).waitFor();
      assert.ok((await said()).includes(words), words);
      assert.match(await said(), /Sie können auch das Amt anrufen oder ihm schreiben\.$/);
    }
    // A browser may try a broken connection again on its own, so this one never leaves it.
    await page.route("**/v1/chat/completions", (route) => route.abort("connectionreset"));
    await input().fill("Wo kann ich mich ummelden?");
    await input().press("Enter");
    await answers().last().getByText("Die Auskunft ist im Augenblick nicht erreichbar.").waitFor();
    await page.unroute("**/v1/chat/completions");
    const asked = await put("Wo kann ich mich ummelden?");
    await asked.fail(503);
    const shown = await answers().count();
    await answers().last().getByRole("button", { name: "Noch einmal senden" }).click();
    const again = await server.next();
    assert.deepEqual(again.body.messages, [{ role: "user", content: "Wo kann ich mich ummelden?" }], "what failed is no part of the conversation");
    await again.answer("Beim Einwohnermeldeamt.");
    await answers().last().getByText("Beim Einwohnermeldeamt.").waitFor();
    assert.equal(await answers().count(), shown);
  });

  test("without a network it says so", async () => {
    await open.context.setOffline(true);
    await input().fill("Wo kann ich mich ummelden?");
    await input().press("Enter");
    await answers().last().getByText("Es besteht keine Verbindung.").waitFor();
    await open.context.setOffline(false);
    await answers().last().getByRole("button", { name: "Noch einmal senden" }).click();
    await (await server.next()).answer("Beim Einwohnermeldeamt.");
    await answers().last().getByText("Beim Einwohnermeldeamt.").waitFor();
  });

  test("sends a rating once, with office and verdict and nothing else", async () => {
    await (await put("Wo kann ich mich ummelden?")).answer("Beim Einwohnermeldeamt.");
    const answer = answers().last();
    const arrived = page.waitForResponse(/feedback/);
    await answer.getByRole("button", { name: "Ja, hilfreich" }).click();
    await answer.getByText("Danke für Ihre Rückmeldung.").waitFor();
    assert.equal((await arrived).status(), 204);
    // No second one, whatever is pressed: another question's answer comes after it would have.
    await answer.getByRole("button", { name: "Nein, nicht hilfreich" }).dispatchEvent("click");
    await (await put("Und was kostet das?")).answer("Nichts.");
    await answers().last().getByText("Nichts.").waitFor();
    assert.deepEqual(server.ratings, [{ rating: "up", office: "einwohnermeldeamt", verdict: "passed" }]);
  });

  test("leads to a person: phone, mail and hours of the office of the answer", async () => {
    await (await put("Wo kann ich heiraten?")).answer("Beim Standesamt.", about({ office: { id: "standesamt", name: "Standesamt" } }));
    await answers().last().getByRole("button", { name: "Kontakt: Standesamt" }).click();
    const desk = page.getByRole("region", { name: "Mit einem Menschen sprechen" });
    assert.equal(await desk.getByRole("link", { name: "01234 567-300" }).getAttribute("href"), "tel:01234567300");
    assert.equal(await desk.getByRole("link", { name: /standesamt@/ }).getAttribute("href"), "mailto:standesamt@musterstadt.example");
    await desk.getByText("Montag bis Freitag 8:00 bis 12:00 Uhr").waitFor();
    await desk.getByLabel("Amt").selectOption({ label: "Stadtkasse" });
    await desk.getByText("01234 567-500").waitFor();
    await page.keyboard.press("Escape");
    assert.equal(await desk.isVisible(), false);
    assert.match(await page.evaluate(() => document.querySelector("muni-chat").shadowRoot.activeElement.innerText), /Kontakt: Standesamt/);
  });

  test("limits a question and counts what is left", async () => {
    await input().fill("a".repeat(330));
    await page.getByText("Noch 70 Zeichen").first().waitFor();
    await input().pressSequentially("b".repeat(80));
    assert.equal((await input().inputValue()).length, 400);
    await input().fill("   ");
    await input().press("Enter");
    assert.equal(await answers().count(), 0);
  });
});

test("both languages say everything", () => {
  const read = new Function(`${WIDGET.slice(WIDGET.indexOf("const LABELS"), WIDGET.indexOf("// Questions to begin"))}; return LABELS;`);
  const shape = (labels) => Object.fromEntries(Object.entries(labels).map(([key, value]) => [key, typeof value === "object" ? shape(value) : true]));
  const { alltag, leicht } = read();
  assert.deepEqual(shape(leicht), shape(alltag));
  assert.ok(Object.keys(alltag).length > 30);
});
