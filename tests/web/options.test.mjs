// A question back: the services that may be meant, as buttons under it.
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import {
  SKIP, assertAccessible, assertClean, assertNoSidewaysScroll, focused, launch, openPage, picture,
} from "./lib.mjs";
import { OPTIONS, about, questionBack, standIn } from "./stand_in.mjs";

const QUESTION = "Was kostet der Ausweis?";
const SENTENCE = "Geht es um eines dieser Anliegen?";
const REPHRASE = "Bitte die Frage mit anderen Worten stellen.";
const LABELS = OPTIONS.map(({ label }) => label);
const HOST = `<!doctype html><html lang="de"><head><title>Startseite</title>
  <meta name="viewport" content="width=device-width, initial-scale=1"></head>
  <body><main><h1>Startseite</h1></main><script src="/widget.js" defer></script></body></html>`;

describe("a question back", { skip: SKIP }, () => {
  let browser, server, open, page;
  before(async () => {
    browser = await launch();
  });
  after(() => browser?.close());
  beforeEach(async () => {
    server = await standIn({ pages: { "/host": { html: HOST } } });
    await visit({});
  });
  afterEach(async () => {
    await leave();
    await server.close();
  });

  async function visit(options, path = "/") {
    open = await openPage(browser, options);
    page = open.page;
    await page.goto(server.url + path);
    if (path === "/host") await page.getByRole("button", { name: "Fragen?" }).click();
    await page.getByText("Ihre Fragen werden nicht gespeichert.").first().waitFor();
  }
  async function leave() {
    await assertClean(open, [server.url]);
    await open.context.close();
  }
  const input = () => page.getByRole("textbox", { name: "Ihre Frage" });
  const answers = () => page.locator("muni-chat .theirs");
  const group = () => page.getByRole("group", { name: "Meinten Sie" }).last();
  const option = (name) => group().getByRole("button", { name });
  const said = () => page.locator("muni-chat [role=status]").innerText();
  const inInput = async () => assert.match(await focused(page), /^textarea/);
  async function put(question) {
    await input().fill(question);
    await input().press("Enter");
    return server.next();
  }
  async function askedBack(...how) {
    await (await put(QUESTION)).askBack(...how);
    await group().waitFor();
  }
  /** Of each button: whether it is disabled, and what aria-pressed says. */
  const states = () => group().getByRole("button").evaluateAll((buttons) =>
    buttons.map((button) => [button.disabled, button.getAttribute("aria-pressed")]));
  const usable = [[false, null], [false, null], [false, null], [false, null]];
  const disabled = usable.map(() => [true, null]);
  const second = disabled.map((state, i) => (i === 1 ? [true, "true"] : state));
  const history = (label = LABELS[1]) => [
    { role: "user", content: QUESTION },
    { role: "assistant", content: questionBack() },
    { role: "user", content: label },
  ];

  test("shows a button for each option, the list only as these, no rating, no source", async () => {
    const asked = await put(QUESTION);
    await asked.askBack();
    await group().waitFor();
    const shown = await group().getByRole("button").allInnerTexts();
    assert.deepEqual(shown, [...LABELS, "Etwas anderes"]);
    assert.deepEqual(await states(), usable);
    const answer = answers().last();
    assert.equal(await answer.locator(".text").innerText(), SENTENCE);
    for (const label of LABELS) assert.equal(await answer.getByText(label).count(), 1);
    assert.doesNotMatch(await answer.innerText(), /hilfreich|Rechtsgrundlage|Stand:|abgeglichen/);
    assert.equal(await answer.locator(".about").count(), 0);
    // A screen reader hears the labels with the sentence.
    assert.match(await said(), /^Antwort: Geht es um .*1\. Reisepass beantragen.*3\. Bewohner/s);
    await inInput();
  });

  test("a press sends the label after the question and the question back", async () => {
    await askedBack();
    await option(LABELS[1]).click();
    const asked = await server.next();
    assert.deepEqual(asked.body.messages, history());
    assert.deepEqual(await states(), second);
    const mine = page.locator("muni-chat .mine");
    assert.match(await mine.last().innerText(), /Personalausweis beantragen$/);
    await inInput();
    await asked.answer("Die Gebühr beträgt 46 Euro.");
    await answers().last().getByText("Stand: 1. Juli 2026").waitFor();
    await answers().last().getByRole("button", { name: "Ja, hilfreich" }).waitFor();
    assert.deepEqual(await states(), second, "the choice stays, and stays the only one");
    assert.equal(await mine.count(), 2);
  });

  test("a request that failed leaves the options usable", async () => {
    await askedBack();
    await option(LABELS[1]).click();
    await (await server.next()).fail(429, { "Retry-After": "7" });
    await answers().last().getByText("in 7 Sekunden").waitFor();
    assert.deepEqual(await states(), usable);
    await answers().last().getByRole("button", { name: "Noch einmal senden" }).click();
    let asked = await server.next();
    assert.deepEqual(asked.body.messages, history());
    assert.deepEqual(await states(), second, "sent again, it is the same choice");
    asked.begin();
    await asked.say("Die Gebühr");
    await answers().last().getByText("Die Gebühr").waitFor();
    asked.cut();
    await answers().last().getByText("Die Verbindung wurde unterbrochen").waitFor();
    assert.deepEqual(await states(), usable);
    await option(LABELS[0]).click();
    asked = await server.next();
    assert.deepEqual(asked.body.messages, history(LABELS[0]));
    await page.getByRole("button", { name: "Anhalten" }).click();
    await answers().last().getByText("Angehalten.").waitFor();
    assert.deepEqual(await states(), usable, "stopped before a word was said");
  });

  test("while an answer comes no option can be pressed; after another question none", async () => {
    await askedBack();
    const asked = await put("Und wie lange dauert es?");
    assert.deepEqual(await states(), disabled);
    await option(LABELS[0]).dispatchEvent("click");
    await asked.answer("Etwa drei Wochen.");
    await answers().last().getByText("Stand: 1. Juli 2026").waitFor();
    assert.deepEqual(await states(), disabled, "its label would be about the wrong question");
    const next = await put("Danke");
    assert.deepEqual(next.body.messages.map((m) => m.content),
      [QUESTION, questionBack(), "Und wie lange dauert es?", "Etwa drei Wochen.", "Danke"]);
    await next.askBack(OPTIONS.slice(0, 1));
    await answers().last().getByRole("group", { name: "Meinten Sie" }).waitFor();
    assert.deepEqual(await states(), usable.slice(0, 2), "only the last question back is open");
    assert.equal(await page.locator("muni-chat .options button:enabled").count(), 2);
    await page.getByRole("button", { name: "Neues Gespräch" }).click();
    assert.equal(await page.locator("muni-chat .options").count(), 0);
  });

  test("something else: the cursor is in the field, and it says what to do", async () => {
    await askedBack();
    await option("Etwas anderes").click();
    await inInput();
    assert.equal(await said(), REPHRASE);
    const hint = page.locator("muni-chat .hint");
    assert.equal(await hint.innerText(), REPHRASE);
    assert.deepEqual(await states(), usable);
    await page.getByRole("button", { name: "Leichte Sprache" }).click();
    assert.match(await hint.innerText(), /Nehmen Sie andere Wörter\.$/);
    await page.getByRole("button", { name: "Leichte Sprache" }).click();
    const asked = await put("Was kostet ein Reisepass?");
    assert.equal(await hint.isVisible(), false);
    assert.equal(asked.body.messages.at(-1).content, "Was kostet ein Reisepass?");
    await asked.answer("70 Euro.");
    await answers().last().getByText("Stand: 1. Juli 2026").waitFor();
  });

  test("with the keyboard: in their order before the field, Enter and space choose", async () => {
    await askedBack();
    const passed = [];
    for (let i = 0; i < 4; i += 1) {
      await page.keyboard.press("Shift+Tab");
      passed.unshift(await focused(page));
    }
    assert.deepEqual(passed, [...LABELS, "Etwas anderes"].map((label) => `button ${label}`));
    const outline = await option(LABELS[0]).evaluate((button) => getComputedStyle(button).outline);
    assert.match(outline, /solid 3px/);
    for (let i = 0; i < 3; i += 1) await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await inInput();
    assert.equal(await said(), REPHRASE);
    for (let i = 0; i < 3; i += 1) await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Space");
    const asked = await server.next();
    assert.deepEqual(asked.body.messages, history());
    await inInput();
    await asked.answer("46 Euro.");
    await answers().last().getByText("Stand: 1. Juli 2026").waitFor();
  });

  test("labels are text; other forms of the list; a question back without options", async () => {
    const html = '<img src=x onerror="alert(1)">';
    await askedBack([{ service: "x", label: html }], `Meinen Sie das?\n1) ${html}`);
    assert.equal(await answers().last().locator(".text").innerText(), "Meinen Sie das?");
    assert.equal(await option(html).innerText(), html);
    assert.equal(await answers().last().locator("img").count(), 0);
    for (const none of [[], undefined]) {
      const asked = await put(QUESTION);
      asked.begin();
      await asked.say("Was meinen Sie?\n\nBitte genauer.");
      await asked.end(about({ verdict: "asked", office: null, service: null, options: none }));
      await answers().last().getByText("Bitte genauer.").waitFor();
      await page.getByRole("button", { name: "Senden" }).waitFor();
      assert.equal(await answers().last().getByRole("button").count(), 0);
    }
    // Options are those of a question back only.
    await (await put(QUESTION)).answer("46 Euro.", about({ options: [] }));
    await answers().last().getByRole("button", { name: "Ja, hilfreich" }).waitFor();
    assert.equal(await answers().last().locator(".options").count(), 0);
  });

  for (const [name, options, path] of [
    ["light", {}],
    ["dark", { colorScheme: "dark" }],
    ["phone", { viewport: { width: 320, height: 640 }, hasTouch: true, isMobile: true }],
    ["contrast", { forcedColors: "active" }],
    ["widget", {}, "/host"],
    ["widget-phone", { viewport: { width: 320, height: 640 } }, "/host"],
    ["zoom", { viewport: { width: 320, height: 256 }, reducedMotion: "reduce" }],
  ]) {
    test(`axe-core finds nothing, and everything fits (${name})`, async () => {
      await leave();
      await visit(options, path);
      const long = "Verkehrsrechtliche Anordnung und Sondernutzungserlaubnis";
      await askedBack([...OPTIONS.slice(0, 2), { service: "x", label: long }]);
      const look = async (state) => {
        await assertAccessible(page, `${state}, ${name}`);
        await assertNoSidewaysScroll(page, `${state}, ${name}`);
        await picture(page, `options-${name}-${state}`);
      };
      for (const button of await group().getByRole("button").all()) {
        await button.scrollIntoViewIfNeeded();
        assert.ok((await button.boundingBox()).height >= 44, `${await button.innerText()} is low`);
      }
      await look("open");
      await option("Etwas anderes").click();
      await look("other");
      await option(LABELS[1]).click();
      const asked = await server.next();
      await look("busy");
      await asked.answer("Die Gebühr beträgt 46 Euro.");
      await answers().last().getByText("Stand: 1. Juli 2026").waitFor();
      await look("chosen");
      await page.emulateMedia({ media: "print" });
      assert.equal(await group().count(), 0, "print");
      assert.equal(await page.locator("muni-chat .options").isVisible(), false);
    });
  }
});
