// From a script tag to an element: finds out where the server is, and adds the element where the page has none.

const SCRIPT = document.currentScript;

/** The server's address, ending in a slash: said by the element, else the folder that this script came from. */
function serverOf(element) {
  const said = element.dataset.server;
  if (said) return new URL(said.endsWith("/") ? said : `${said}/`, document.baseURI).href;
  return new URL(".", SCRIPT?.src || document.baseURI).href;
}

function addElement() {
  if (document.querySelector("muni-chat")) return;
  const element = document.createElement("muni-chat");
  for (const name of ["server", "title", "office", "color"]) {
    if (SCRIPT?.dataset[name] !== undefined) element.dataset[name] = SCRIPT.dataset[name];
  }
  document.body.append(element);
}

if (!customElements.get("muni-chat")) {
  customElements.define("muni-chat", MuniChat);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", addElement);
  else addElement();
}
