// The page around the chat, and the privacy notice: the city's name, its offices, and texts in Leichte Sprache.
// Everything comes from the server that the page came from.
(() => {
  "use strict";

  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children.filter(Boolean));
    return element;
  };

  function contact(office) {
    const rows = make("dl", {});
    const row = (name, value) => value && rows.append(make("dt", {}, name), make("dd", {}, value));
    const dial = office.phone?.replace(/[^\d+]/g, "");
    row("Telefon", dial && make("a", { href: `tel:${dial}` }, office.phone));
    row("E-Mail", office.email && make("a", { href: `mailto:${office.email}` }, office.email));
    row("Öffnungszeiten", office.hours);
    row("Anschrift", office.address);
    return rows;
  }

  function entry(office) {
    const services = (office.services ?? []).map((service) => make("li", {}, service.title));
    return make("li", {},
      make("details", {}, make("summary", {}, office.name), contact(office),
        services.length > 0 && make("p", { className: "what" }, "Zuständig zum Beispiel für:"),
        services.length > 0 && make("ul", { className: "services" }, ...services)));
  }

  function show(info) {
    if (info.city) for (const place of document.querySelectorAll("[data-city]")) place.textContent = info.city;
    for (const passage of document.querySelectorAll("[data-logging]")) {
      passage.hidden = passage.dataset.logging !== String(Boolean(info.logs_conversations));
    }
    document.getElementById("liste")?.append(...(info.offices ?? []).map(entry));
  }

  fetch("api/offices", { credentials: "omit" })
    .then((response) => (response.ok ? response.json() : Promise.reject(new Error(response.statusText))))
    .then(show)
    .catch(() => document.getElementById("ohne-kontakte")?.removeAttribute("hidden"));

  document.addEventListener("muni-chat-language", ({ detail }) => {
    for (const passage of document.querySelectorAll("[data-speech]")) {
      passage.hidden = passage.dataset.speech !== (detail.easy ? "leicht" : "alltag");
    }
  });
})();
