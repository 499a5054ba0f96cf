// Access for everybody: axe-core in every state, keyboard only, small and magnified windows, languages, colours.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { SKIP, assertAccessible, assertClean, assertNoSidewaysScroll, focused, launch, openPage, picture } from "./lib.mjs";
import { about, standIn } from "./stand_in.mjs";

const ADDRESS = "In Musterstadt lautet die Anschrift Bürgerbüro im Rathaus, Rathausplatz 1, 12345 Musterstadt; Termine können unter " +
  "https://termine.musterstadt.example gebucht werden.";

describe("access", { skip: SKIP }, () => {
  let browser, server;
  before(async () => {
    browser = await launch();
    server = await standIn();
    const script = (attributes) => `<!doctype html><html lang="de"><head><meta name="viewport" content="width=device-width, initial-scale=1"><title>Startseite</title></head><body><main><h1>Startseite</h1>
      <p>Willkommen</p></main><script src="/widget.js" defer ${attributes}></script></body></html>`;
    server.pages["/host"] = { html: script("") };
    server.pages["/yellow"] = { html: script('data-color="#ffd400" data-title="Frag die Stadt" data-office="standesamt"') };
    server.pages["/odd"] = { html: script('data-color="}:host{display:none" data-office="gibt-es-nicht"') };
  });
  after(async () => {
    await browser?.close();
    await server?.close();
  });

  async function visit(path, options, visitor) {
    const open = await openPage(browser, options);
    await open.page.goto(server.url + path);
    await visitor(open.page, open);
    await assertClean(open, [server.url]);
    await open.context.close();
  }
  const ask = async (page, question) => {
    const input = page.getByRole("textbox");
    await input.fill(question);
    await input.press("Enter");
    return server.next();
  };

  for (const [name, options] of [
    ["light", {}],
    ["dark", { colorScheme: "dark" }],
    ["phone", { viewport: { width: 320, height: 640 }, hasTouch: true, isMobile: true }],
    ["contrast", { forcedColors: "active" }],
  ]) {
    test(`axe-core finds nothing, in any state (${name})`, async () => {
      await visit("/", options, async (page) => {
        await page.getByText("Ihre Fragen werden nicht gespeichert.").first().waitFor();
        await assertAccessible(page, "page at its start");
        await picture(page, `page-${name}`);
        const asked = await ask(page, "Wo kann ich mich ummelden?");
        asked.begin();
        await asked.say("Zuständig für die Ummeldung ist das Einwohnermeldeamt der Kommune, in der die neue Wohnung liegt. ", about());
        await page.locator("muni-chat .desk").waitFor();
        await assertAccessible(page, "while an answer comes");
        await asked.say(ADDRESS);
        await asked.end(about());
        await page.getByText("Stand: 1. Juli 2026").first().waitFor();
        await page.getByRole("button", { name: "Ja, hilfreich" }).click();
        await picture(page, `page-${name}-answer`, { fullPage: true });
        const marked = await ask(page, "Und was kostet das?");
        await marked.answer("Die Ummeldung ist gebührenfrei.", about({ verdict: "marked" }));
        await page.getByText("Nicht alle Angaben ließen sich prüfen.").first().waitFor();
        const failed = await ask(page, "Und wie lange dauert es?");
        await failed.fail(429, { "Retry-After": "7" });
        await page.getByText("in 7 Sekunden").first().waitFor();
        await page.getByRole("textbox").fill("a".repeat(380));
        await assertAccessible(page, "after answers and an error");
        await page.getByRole("button", { name: "Mit einem Menschen sprechen" }).click();
        await page.locator("#liste summary").first().click();
        await assertAccessible(page, "with the offices open");
        await picture(page, `page-${name}-offices`);
        await page.getByRole("button", { name: "Leichte Sprache" }).click();
        await page.getByText("Hier antwortet kein Mensch.").first().waitFor();
        await assertAccessible(page, "in Leichte Sprache");
        await assertNoSidewaysScroll(page, name);
      });
      await visit("/datenschutz", options, async (page) => {
        await page.getByText("Musterstadt").first().waitFor();
        assert.equal(await page.getByText("Auf manchen Servern").first().isVisible(), false);
        await assertAccessible(page, "privacy notice");
        await assertNoSidewaysScroll(page, `privacy notice, ${name}`);
        await picture(page, `privacy-${name}`, { fullPage: true });
      });
      await visit("/host", options, async (page) => {
        await assertAccessible(page, "widget closed");
        await picture(page, `widget-${name}-closed`);
        await page.getByRole("button", { name: "Fragen?" }).click();
        await page.getByText("Ihre Fragen werden nicht gespeichert.").first().waitFor();
        await assertAccessible(page, "widget open");
        const asked = await ask(page, "Wo kann ich mich ummelden?");
        await asked.answer(`Zuständig ist das Einwohnermeldeamt. ${ADDRESS}`, about({ verdict: "replaced" }));
        await page.getByText("Stand: 1. Juli 2026").first().waitFor();
        await assertAccessible(page, "widget with an answer");
        await assertNoSidewaysScroll(page, `widget, ${name}`);
        await picture(page, `widget-${name}`);
        await page.getByRole("button", { name: "Kontakt: Einwohnermeldeamt" }).click();
        await page.getByRole("button", { name: "Leichte Sprache" }).click();
        await assertAccessible(page, "widget in Leichte Sprache with the offices");
        await assertNoSidewaysScroll(page, `widget in Leichte Sprache, ${name}`);
        await picture(page, `widget-${name}-easy`);
      });
    });
  }

  test("everything can be done with the keyboard alone", async () => {
    await visit("/host", {}, async (page) => {
      const press = async (...keys) => {
        for (const key of keys) await page.keyboard.press(key);
      };
      await press("Tab");
      assert.equal(await focused(page), "button Fragen?");
      await press("Enter");
      assert.match(await focused(page), /^textarea/);
      const described = await page.evaluate(() => {
        const root = document.querySelector("muni-chat").shadowRoot;
        return root.activeElement.getAttribute("aria-describedby").split(" ").map((id) => root.getElementById(id).textContent).join("");
      });
      assert.match(described, /Sie sprechen mit einer Maschine\./);
      assert.match(await page.locator("muni-chat [role=status]").innerText(), /Sie sprechen mit einer Maschine/);
      await page.keyboard.type("Wo kann ich mich ummelden?");
      await press("Shift+Enter");
      await page.keyboard.type("Danke");
      await press("Enter");
      const asked = await server.next();
      assert.equal(asked.body.messages[0].content, "Wo kann ich mich ummelden?\nDanke");
      asked.begin();
      await asked.say("Zuständig ist", about());
      await page.locator("muni-chat .desk").waitFor();
      await press("Tab");
      assert.equal(await focused(page), "button Anhalten");
      await press("Shift+Tab");
      await asked.end(about());
      await page.getByText("Stand: 1. Juli 2026").first().waitFor();
      assert.match(await focused(page), /^textarea/, "the focus stays in the question");

      const before = [];
      for (let i = 0; i < 3; i += 1) {
        await press("Shift+Tab");
        before.unshift(await focused(page));
      }
      assert.deepEqual(before, ["button Kontakt: Einwohnermeldeamt", "button Ja, hilfreich", "button Nein, nicht hilfreich"]);
      await press("Tab", "Space");
      assert.equal(await page.getByRole("button", { name: "Ja, hilfreich" }).getAttribute("aria-pressed"), "true");
      await press("Shift+Tab", "Enter");
      assert.equal(await focused(page), "h3 Mit einem Menschen sprechen");
      await press("Tab", "Tab");
      assert.match(await focused(page), /^select/);
      await press("ArrowDown");
      await page.getByRole("link", { name: "01234 567-300" }).waitFor();
      await press("Escape");
      assert.equal(await focused(page), "button Kontakt: Einwohnermeldeamt");
      await press("Escape");
      assert.equal(await focused(page), "button Fragen?");
      assert.equal(await page.locator("muni-chat .panel").isVisible(), false);
      await press("Space");
      assert.match(await focused(page), /^textarea/);
      await page.getByText("Stand: 1. Juli 2026").first().waitFor();
      await press("Escape");
      assert.equal(await focused(page), "button Fragen?");
    });
  });

  test("a page magnified to 400 % can be read and used", async () => {
    for (const path of ["/host", "/"]) {
      await visit(path, { viewport: { width: 320, height: 256 } }, async (page) => {
        if (path === "/host") await page.getByRole("button", { name: "Fragen?" }).click();
        const asked = await ask(page, "Wo kann ich mich ummelden?");
        await asked.answer(`Zuständig ist das Einwohnermeldeamt. ${ADDRESS}`);
        await page.getByText("Stand: 1. Juli 2026").first().waitFor();
        await assertNoSidewaysScroll(page, `400 %, ${path}`);
        for (const target of [page.getByRole("textbox"), page.getByRole("button", { name: "Senden" }), page.getByText("Hier antwortet ein Computerprogramm").first(),
          page.getByRole("button", { name: "Leichte Sprache" })]) {
          await target.scrollIntoViewIfNeeded();
          const box = await target.boundingBox();
          assert.ok(box.y + Math.min(box.height, 100) <= 257 && box.y + box.height > 0, `${path}: ${target} stays out of view`);
        }
        await picture(page, `zoom${path.replace("/", "-")}`);
      });
    }
  });

  test("the labels change to Leichte Sprache and back, the conversation stays", async () => {
    await visit("/", {}, async (page) => {
      const asked = await ask(page, "Wo kann ich mich ummelden?");
      await asked.answer("Beim Einwohnermeldeamt.");
      await page.getByText("Rechtsgrundlage: § 17 Abs. 1 BMG").first().waitFor();
      const toggle = page.getByRole("button", { name: "Leichte Sprache" });
      await toggle.click();
      assert.equal(await toggle.getAttribute("aria-pressed"), "true");
      for (const words of ["Der Computer kann Fehler machen.", "Die Antworten sind noch nicht in Leichter Sprache.", "Das steht im Gesetz: § 17 Abs. 1 BMG",
        "Geprüft am: 1. Juli 2026", "Hat Ihnen das geholfen?", "Schreiben Sie Ihre Frage", "Hier können Sie die Stadt etwas fragen."]) {
        await page.getByText(words).first().waitFor();
      }
      await page.getByRole("button", { name: "Ja, das hat geholfen" }).waitFor();
      await page.getByText("Beim Einwohnermeldeamt.").first().waitFor();
      await toggle.click();
      await page.getByText("Rechtsgrundlage: § 17 Abs. 1 BMG").first().waitFor();
      assert.equal(await page.getByText("Hier können Sie die Stadt").first().isVisible(), false);
    });
  });

  test("a city's colour is made readable, its title and office are used", async () => {
    for (const colorScheme of ["light", "dark"]) {
      await visit("/yellow", { colorScheme }, async (page) => {
        await page.getByRole("button", { name: "Fragen?" }).click();
        await page.getByRole("heading", { name: "Frag die Stadt" }).waitFor();
        await page.getByRole("button", { name: "Wo bekomme ich eine Geburtsurkunde?" }).click();
        await (await server.next()).answer("Beim Standesamt.");
        await page.getByText("Stand: 1. Juli 2026").first().waitFor();
        await assertAccessible(page, `yellow, ${colorScheme}`);
        await picture(page, `yellow-${colorScheme}`);
      });
    }
    await visit("/odd", {}, async (page) => {
      const button = page.getByRole("button", { name: "Fragen?" });
      assert.equal(await button.evaluate((element) => getComputedStyle(element).backgroundColor), "rgb(0, 81, 138)");
      await button.click();
      await page.locator("muni-chat .examples button").first().waitFor();
      assert.equal((await page.locator("muni-chat .examples button").allInnerTexts()).length, 3);
    });
  });

  test("nothing moves for those who asked for that", async () => {
    for (const [reducedMotion, moving] of [["reduce", "none"], ["no-preference", "beat"]]) {
      await visit("/", { reducedMotion }, async (page) => {
        const asked = await ask(page, "Wo kann ich mich ummelden?");
        asked.begin();
        await asked.say("Zuständig ist");
        const text = page.locator("muni-chat .theirs .text");
        await page.locator("muni-chat .theirs").getByText("Zuständig ist").waitFor();
        assert.equal(await text.evaluate((element) => getComputedStyle(element, "::after").animationName), moving);
        await asked.end(about());
        await page.getByText("Stand: 1. Juli 2026").first().waitFor();
      });
    }
  });
});
