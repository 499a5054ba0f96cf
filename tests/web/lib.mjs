// What the browser tests share: one Chromium, pages that record what must not happen, and the accessibility check.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const FOUND = [process.env.MUNI_CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
/** The browser, or undefined where none is installed. */
export const CHROMIUM = FOUND.find((path) => path && existsSync(path));
/** Why the tests are skipped; false where they are not. CI sets MUNI_REQUIRE_BROWSER, which turns skipping into failing. */
export const SKIP = skipReason();

function skipReason() {
  const missing = CHROMIUM ? null : "no Chromium is installed (apt-get install chromium, or set MUNI_CHROMIUM)";
  const require = createRequire(import.meta.url);
  let packages = null;
  try {
    require.resolve("playwright-core");
    require.resolve("axe-core");
  } catch {
    packages = "the test packages are not installed (npm ci in tests/web)";
  }
  const reason = missing ?? packages;
  if (reason && process.env.MUNI_REQUIRE_BROWSER) throw new Error(reason);
  return reason ?? false;
}

export const folder = (relative) => fileURLToPath(new URL(relative, import.meta.url));

/** A fresh headless browser with its own profile. */
export async function launch() {
  const { chromium } = await import("playwright-core");
  return chromium.launch({
    executablePath: CHROMIUM,
    headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
}

/**
 * A page in a context of its own that keeps watch: `watch.hosts` are the origins that were asked, `watch.violations` what a
 * Content-Security-Policy refused, `watch.errors` exceptions of scripts.
 */
export async function openPage(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: "de-DE", ...options });
  context.setDefaultTimeout(10_000);
  const watch = { hosts: new Set(), paths: [], violations: [], errors: [] };
  await context.exposeBinding("__violated", (_, violation) => watch.violations.push(violation));
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) =>
      window.__violated(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
  });
  const page = await context.newPage();
  page.on("request", (request) => {
    const url = new URL(request.url());
    watch.hosts.add(url.origin);
    watch.paths.push(`${request.method()} ${url.pathname}`);
  });
  page.on("pageerror", (error) => watch.errors.push(error.message));
  return { page, context, watch };
}

/** What a page must have kept: no other origin, no refused content, no exception, nothing stored. */
export async function assertClean({ page, context, watch }, origins) {
  assert.deepEqual(watch.violations, [], "Content-Security-Policy violations");
  assert.deepEqual(watch.errors, [], "exceptions");
  for (const host of watch.hosts) assert.ok(origins.includes(host), `a request went to ${host}`);
  assert.deepEqual(await context.cookies(), [], "cookies");
  const kept = await page.evaluate(async () => [localStorage.length, sessionStorage.length, (await indexedDB.databases()).length]);
  assert.deepEqual(kept, [0, 0, 0], "browser storage");
}

/** Fails with every finding of axe-core: WCAG 2.0 to 2.2 A and AA and its best practices, in shadow roots too. */
export async function assertAccessible(page, what) {
  const source = readFileSync(folder("node_modules/axe-core/axe.min.js"), "utf8");
  await page.evaluate(source);
  const { violations, passes } = await page.evaluate(() => window.axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  }));
  assert.ok(passes.length > 10, `axe-core looked at ${passes.length} rules only`);
  const found = violations.flatMap((rule) =>
    rule.nodes.map((node) => `${rule.id}: ${node.target.join(" > ")} ${node.failureSummary}`));
  assert.deepEqual(found, [], `${what}: axe-core`);
}

/** Fails where a page is wider than its window, or where something in the widget sticks out of it. */
export async function assertNoSidewaysScroll(page, what) {
  const wide = await page.evaluate(() => {
    const width = document.documentElement.clientWidth;
    const out = [];
    if (document.documentElement.scrollWidth > width) out.push(`page ${document.documentElement.scrollWidth} > ${width}`);
    const shadow = document.querySelector("muni-chat")?.shadowRoot;
    for (const element of [...document.body.querySelectorAll("*"), ...(shadow?.querySelectorAll("*") ?? [])]) {
      if (element.closest(".unseen, .skip, svg")) continue;
      const box = element.getBoundingClientRect();
      if (box.width > 0 && (box.right > width + 0.5 || box.left < -0.5)) out.push(`${element.tagName}.${element.className} ${box.left}..${box.right}`);
    }
    for (const box of shadow?.querySelectorAll(".log, .body, .desks, .panel") ?? []) {
      if (box.scrollWidth > box.clientWidth + 1) out.push(`${box.className} scrolls sideways`);
    }
    return out;
  });
  assert.deepEqual(wide, [], what);
}

/** The element that has the focus, through shadow roots, in words. */
export const focused = (page) => page.evaluate(() => {
  let element = document.activeElement;
  while (element?.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
  return `${element?.tagName.toLowerCase()} ${element?.getAttribute("aria-label") ?? element?.innerText ?? ""}`.trim();
});

/** Saves a picture where MUNI_SCREENSHOTS names a folder: for people to look at. */
export async function picture(page, name, options = {}) {
  if (process.env.MUNI_SCREENSHOTS) await page.screenshot({ path: `${process.env.MUNI_SCREENSHOTS}/${name}.png`, ...options });
}
