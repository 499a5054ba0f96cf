// The element <muni-chat>: a button that opens a panel, or (data-inline) the panel itself. It keeps the conversation in
// memory only: no cookie, no storage, nothing left when the page is closed.
//
// Attributes: data-server (address of the server; else where this script came from), data-title, data-office (id of the
// office whose page this is), data-color (a CSS colour), data-inline.

/** Longest question: longer ones leave the model's window no room for an answer. */
const QUESTION_LENGTH = 400;
/** Turns sent along; the server drops what doesn't fit the model's window, this bounds what is sent at all. */
const TURNS_SENT = 8;
/** Examples shown at the start. */
const EXAMPLES_SHOWN = 3;

class MuniChat extends HTMLElement {
  #root = this.attachShadow({ mode: "open" });
  #speech = new Speech();
  #server = "";
  #city = null;
  #offices = [];
  #turns = [];
  #running = null;
  #office = null;
  /** The options under the last answer, as long as it is the last; earlier ones stay disabled. */
  #options = null;
  #view = null;
  #loaded = null;
  #desksFrom = null;

  connectedCallback() {
    if (this.#view) return;
    this.lang = "de";
    this.#server = serverOf(this);
    this.#office = this.dataset.office || null;
    this.#root.adoptedStyleSheets = [sheetOf(LOOK)];
    const own = accentRules(this.#root, this.dataset.color);
    if (own) this.#root.adoptedStyleSheets.push(sheetOf(own));
    this.#build();
    if (this.#inline) this.#begin();
  }

  disconnectedCallback() {
    this.#running?.abort();
  }

  get #inline() {
    return "inline" in this.dataset;
  }

  /** Opens the panel and puts the cursor into the question. */
  open() {
    this.#view.panel.hidden = false;
    this.#view.launcher.hidden = true;
    this.#begin();
    this.#view.input.focus();
    this.#announce(this.#view.notice.innerText);
  }

  /** Closes the panel and gives the focus back to the button; the conversation stays. */
  close() {
    if (this.#inline) return;
    this.#view.panel.hidden = true;
    this.#view.launcher.hidden = false;
    this.#view.launcher.focus();
  }

  /** Nothing is asked of the server before a citizen opens the panel. */
  #begin() {
    this.#loaded ??= fetchOffices(this.#server).then(
      (info) => {
        this.#city = info;
        this.#offices = info.offices ?? [];
        this.#view.city.textContent = info.city ?? "";
        this.#view.kept.replaceChildren(
          this.#speech.text((l) => (info.logs_conversations ? l.logged : l.notLogged)),
        );
        this.#showExamples();
      },
      () => (this.#loaded = null),
    );
  }

  #build() {
    const speech = this.#speech;
    const t = (say) => speech.text(say);
    const view = (this.#view = {});
    const title = this.dataset.title;

    view.launcher = speech.attribute(
      make("button", { class: "launcher solid", type: "button", "aria-expanded": "false", onclick: () => this.open() },
        icon("chat"), make("span", {}, t((l) => l.launcher))),
      "title", (l) => l.launcherHint);

    view.city = make("p");
    view.close = speech.attribute(
      make("button", { class: "plain square", type: "button", onclick: () => this.close() }, icon("close")),
      "aria-label", (l) => l.close);
    view.close.hidden = this.#inline;
    const head = make("div", { class: "head" }, make("span", { class: "mark" }, icon("chat")),
      make("div", { class: "names" }, make("h2", { id: "title" }, title ?? t((l) => l.title)), view.city), view.close);

    view.easy = make("button", { class: "plain", type: "button", "aria-pressed": "false", onclick: () => this.#switch() },
      t((l) => l.easy));
    const restart = make("button", { class: "plain push", type: "button", onclick: () => this.#restart() },
      icon("restart"), make("span", {}, t((l) => l.restart)));
    const tools = make("div", { class: "tools" }, view.easy, restart);

    view.log = speech.attribute(
      make("div", { class: "log", role: "log", "aria-live": "off", tabindex: "0" }), "aria-label", (l) => l.log);
    view.desks = make("section", { class: "desks", id: "desks", "aria-labelledby": "desks-title", hidden: true });
    view.status = make("div", { class: "unseen", role: "status", "aria-live": "polite" });

    view.input = make("textarea", { id: "question", rows: "1", maxlength: QUESTION_LENGTH, autocomplete: "off", spellcheck: "true",
      enterkeyhint: "send", "aria-describedby": "machine left", oninput: () => this.#count(),
      onkeydown: (event) => {
        if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
          event.preventDefault();
          this.#submit();
        }
      } });
    view.send = make("button", { class: "solid", type: "submit" }, icon("send"), make("span", {}, t((l) => l.send)));
    view.stop = make("button", { type: "button", hidden: true, onclick: () => this.#stop() }, icon("stop"), make("span", {}, t((l) => l.stop)));
    view.left = make("p", { class: "left", id: "left", hidden: true });
    view.hint = make("p", { class: "hint", hidden: true });
    const form = make("form", { class: "ask", onsubmit: (event) => (event.preventDefault(), this.#submit()) },
      make("label", { for: "question" }, t((l) => l.question)),
      view.hint, view.input, view.send, view.stop, view.left);

    view.person = make("button", { class: "plain", type: "button", "aria-expanded": "false", "aria-controls": "desks",
      onclick: () => (view.desks.hidden ? this.#showDesks(this.#office, view.person) : this.#hideDesks()) },
      icon("person"), make("span", {}, t((l) => l.person)));
    const foot = make("div", { class: "foot" }, view.person,
      make("a", { href: at(this.#server, "datenschutz"), target: "_blank", rel: "noopener" }, t((l) => l.privacy),
        make("span", { class: "unseen" }, t((l) => l.newTab))));

    view.body = make("div", { class: "body" }, tools, view.log, view.desks, form, foot);
    view.panel = make("div", { class: "panel", hidden: !this.#inline }, head, view.body);
    view.launcher.hidden = this.#inline;
    this.#root.addEventListener("keydown", (event) => event.key === "Escape" && this.#escape(event));
    // A landmark, open or closed, so that screen readers list it. Within a page's main part it is a region of that.
    this.#root.append(make("section", { role: this.#inline ? "region" : "complementary", "aria-labelledby": "title", class: "frame" },
      view.launcher, view.panel, view.status));
    this.#greet();
  }

  #greet() {
    const view = this.#view;
    const t = (say) => this.#speech.text(say);
    view.kept = make("p");
    view.notice = make("div", { class: "note" }, make("h3", { id: "machine" }, t((l) => l.machineHeading)),
      make("p", {}, t((l) => l.machine)), view.kept, make("p", {}, t((l) => l.easyNote)));
    view.examples = make("div", { class: "examples", hidden: true });
    view.log.replaceChildren(view.notice, view.examples);
    if (this.#city) {
      view.kept.append(t((l) => (this.#city.logs_conversations ? l.logged : l.notLogged)));
      this.#showExamples();
    }
  }

  /** Questions whose service the city has: of the page's own office, else the first of each office. */
  #showExamples() {
    if (this.#turns.length > 0) return;
    const officeOf = (service) => this.#offices.find((office) => office.services?.some((s) => s.id === service))?.id;
    const known = EXAMPLES.map((example) => ({ ...example, office: officeOf(example.service) })).filter((e) => e.office);
    const own = known.filter((example) => example.office === this.#office);
    const firsts = known.filter((example, i) => known.findIndex((e) => e.office === example.office) === i);
    const shown = (own.length > 0 ? own : firsts).slice(0, EXAMPLES_SHOWN);
    this.#view.examples.replaceChildren(
      make("p", {}, this.#speech.text((l) => l.examples)),
      ...shown.map(({ question }) => make("button", { type: "button", onclick: () => this.#ask(question) }, question)));
    this.#view.examples.hidden = shown.length === 0;
  }

  #submit() {
    const question = this.#view.input.value.trim();
    if (question === "" || this.#running) return;
    this.#view.input.value = "";
    this.#count();
    this.#ask(question);
  }

  /** Sends a question; `option` is the button it comes from, if it is the label of an option. */
  async #ask(question, option = null) {
    if (this.#running) return;
    const view = this.#view;
    const speech = this.#speech;
    const running = (this.#running = new AbortController());
    view.examples.hidden = true;
    this.#offer(false, option);
    this.#hint(null);
    this.#hideDesks(false);
    const mine = make("div", { class: "mine" }, make("span", { class: "unseen" }, speech.text((l) => l.you), " "), question);
    const text = make("div", { class: "text" }, "");
    const bubble = make("div", { class: "bubble" }, text);
    const theirs = make("article", { class: "theirs", "aria-busy": "true", "data-ai-generated": "true" }, bubble);
    speech.attribute(theirs, "aria-label", (l) => l.answer);
    view.log.append(mine, theirs);
    this.#busy(true);
    this.#scroll();
    view.input.focus();
    this.#announce(speech.labels.working);

    let said = "";
    try {
      const about = await ask({
        server: this.#server,
        model: this.#city?.model,
        messages: [...this.#turns.slice(-2 * TURNS_SENT), { role: "user", content: question }],
        signal: running.signal,
        onText: (piece) => {
          said += piece;
          this.#keepingUp(() => text.append(piece));
        },
        onAbout: (muni) => this.#keepingUp(() => this.#nameOffice(bubble, muni.office)),
      });
      const final = (about?.replace ?? said).trim();
      if (final === "") throw new ChatError("unknown");
      this.#remember(question, final);
      this.#keepingUp(() => this.#finish(theirs, bubble, text, final, about ?? {}, said !== ""));
    } catch (error) {
      const again = () => this.#ask(question, option);
      this.#keepingUp(() =>
        this.#unfinished(error, again, question, said, mine, theirs, bubble));
    } finally {
      theirs.removeAttribute("aria-busy");
      if (this.#running === running) {
        this.#running = null;
        this.#busy(false);
        this.#offer(true);
      }
    }
  }

  /** The options under the last answer become usable, or disabled with `chosen` marked. */
  #offer(usable, chosen = null) {
    for (const button of this.#options?.children ?? []) {
      button.disabled = !usable;
      if (button === chosen) button.setAttribute("aria-pressed", "true");
      else button.removeAttribute("aria-pressed");
    }
  }

  /** What stands above the question's field; nothing for null. */
  #hint(say) {
    const { hint } = this.#view;
    this.#keepingUp(() => {
      hint.hidden = say === null;
      hint.replaceChildren(...(say ? [this.#speech.text(say)] : []));
    });
  }

  /** None of the options: the citizen asks in other words. */
  #rephrase() {
    const say = (l) => l.rephrase;
    this.#hint(say);
    this.#view.input.focus();
    this.#announce(say(this.#speech.labels));
  }

  #remember(question, answer) {
    this.#options = null;
    this.#turns.push({ role: "user", content: question }, { role: "assistant", content: answer });
  }

  #nameOffice(bubble, office) {
    if (!office) return;
    this.#office = office.id;
    const name = make("h3", { class: "desk" }, icon("office"), office.name);
    const before = bubble.querySelector(".desk");
    if (before) before.replaceWith(name);
    else bubble.prepend(name);
  }

  #finish(theirs, bubble, text, final, about, shown) {
    const speech = this.#speech;
    const asked = about.verdict === "asked";
    const options = asked ? about.options ?? [] : [];
    text.replaceChildren(...linked(options.length > 0 ? beforeList(final) : final));
    this.#nameOffice(bubble, about.office);
    // Without a guard "passed" means that nobody looked; a greeting needs no comparison.
    const courtesy = !about.service && ["passed", "replaced", "knowledge"].includes(about.verdict);
    const verdict = courtesy || this.#city?.guard === "off" ? null : about.verdict;
    if (verdict) theirs.classList.add(verdict);
    const under = asked ? null : aboutAnswer({ ...about, verdict }, speech);
    if (under) bubble.append(under);
    if (options.length > 0) {
      const choose = (label, button) => this.#ask(label, button);
      this.#options = optionGroup(options, speech, choose, () => this.#rephrase());
      theirs.append(this.#options);
    }
    theirs.append(this.#after(about));
    const parts = [shown && about.replace ? speech.labels.corrected : speech.labels.answer, about.office && `${about.office.name}.`, final,
      under?.innerText];
    this.#announce(parts.filter(Boolean).join(" "));
  }

  /** The way to a person, and the rating; a question back is no answer to rate. */
  #after(about) {
    const speech = this.#speech;
    const box = make("div", { class: "after" });
    if (about.office) {
      const button = make("button", { type: "button", onclick: () => this.#showDesks(about.office.id, button) },
        icon("person"), make("span", {}, speech.text((l) => l.contact(about.office.name))));
      box.append(button);
    }
    if (about.verdict !== "asked") box.append(this.#rating(about));
    return box;
  }

  #rating(about) {
    const speech = this.#speech;
    const label = make("span", {}, speech.text((l) => l.helpful));
    const buttons = ["up", "down"].map((rating) =>
      speech.attribute(
        make("button", { class: "square", type: "button", "aria-pressed": "false", onclick: () => rate(rating) }, icon(rating)),
        "aria-label", (l) => l[rating]));
    let rated = false;
    const rate = (rating) => {
      if (rated) return;
      rated = true;
      sendRating(this.#server, { rating, office: about.office?.id ?? null, verdict: about.verdict ?? null });
      buttons.forEach((button, i) => {
        button.setAttribute("aria-pressed", String(i === (rating === "up" ? 0 : 1)));
        button.setAttribute("aria-disabled", "true");
      });
      label.replaceChildren(speech.text((l) => l.thanks));
      this.#announce(speech.labels.thanks);
    };
    const box = make("div", { class: "after", role: "group" }, label, ...buttons);
    return speech.attribute(box, "aria-label", (l) => l.helpful);
  }

  /** What the citizen sees of an answer that did not come to its end; `again` sends it anew. */
  #unfinished(error, again, question, said, mine, theirs, bubble) {
    const speech = this.#speech;
    if (said === "") bubble.remove();
    if (error.name === "AbortError") {
      if (!theirs.isConnected) return;
      if (said !== "") this.#remember(question, said);
      theirs.append(make("p", { class: "alarm" }, speech.text((l) => l.stopped)));
      this.#announce(speech.labels.stopped);
      return;
    }
    const { kind, wait } = error instanceof ChatError ? error : new ChatError("unknown");
    const say = (l) => l.error[kind](wait);
    const retry = make("button", { type: "button", onclick: () => {
      if (this.#running) return;
      mine.remove();
      theirs.remove();
      again();
    } }, icon("restart"), make("span", {}, speech.text((l) => l.again)));
    const alarm = make("div", { class: "alarm" }, make("p", {}, speech.text(say)), make("p", {}, speech.text((l) => l.errorPerson)),
      kind === "long" || kind === "forbidden" ? null : retry);
    theirs.append(alarm);
    if (kind === "long") this.#view.input.value = question;
    this.#announce(`${say(speech.labels)} ${speech.labels.errorPerson}`);
  }

  /** Shows how to reach the office `id` (or another one), and puts the focus there. */
  #showDesks(id, from) {
    const speech = this.#speech;
    const desks = this.#view.desks;
    const back = speech.attribute(
      make("button", { class: "plain square", type: "button", onclick: () => this.#hideDesks() }, icon("close")),
      "aria-label", (l) => l.personClose);
    const title = make("h3", { id: "desks-title", tabindex: "-1" }, speech.text((l) => l.person));
    desks.replaceChildren(make("div", { class: "row" }, title, back));
    if (this.#offices.length === 0) {
      desks.append(make("p", {}, speech.text((l) => l.noContacts)));
      this.#begin();
    } else {
      const chosen = this.#offices.find((office) => office.id === id) ?? this.#offices[0];
      const place = make("div", { "aria-live": "polite" }, contactList(chosen, speech));
      const select = make("select", { id: "desk", onchange: () => {
        const office = this.#offices.find((each) => each.id === select.value);
        place.replaceChildren(contactList(office, speech));
      } }, ...this.#offices.map((office) => make("option", { value: office.id, selected: office === chosen }, office.name)));
      desks.append(make("label", { for: "desk" }, speech.text((l) => l.office)), select, place);
    }
    desks.hidden = false;
    this.#view.person.setAttribute("aria-expanded", "true");
    this.#desksFrom = from;
    title.focus();
  }

  #hideDesks(refocus = true) {
    if (this.#view.desks.hidden) return;
    this.#view.desks.hidden = true;
    this.#view.person.setAttribute("aria-expanded", "false");
    if (refocus) (this.#desksFrom?.isConnected ? this.#desksFrom : this.#view.input).focus();
  }

  #escape(event) {
    event.stopPropagation();
    if (!this.#view.desks.hidden) this.#hideDesks();
    else this.close();
  }

  #switch() {
    const easy = this.#speech.language === "alltag";
    this.#speech.switchTo(easy ? "leicht" : "alltag");
    this.#view.easy.setAttribute("aria-pressed", String(easy));
    this.#count();
    this.dispatchEvent(new CustomEvent("muni-chat-language", { detail: { easy }, bubbles: true, composed: true }));
  }

  #stop() {
    this.#running?.abort();
    this.#view.input.focus();
  }

  #restart() {
    this.#running?.abort();
    this.#running = null;
    this.#busy(false);
    this.#turns = [];
    this.#options = null;
    this.#hint(null);
    this.#office = this.dataset.office || null;
    this.#hideDesks(false);
    this.#greet();
    this.#view.input.focus();
    this.#announce(this.#view.notice.innerText);
  }

  #busy(busy) {
    this.#view.send.hidden = busy;
    this.#view.stop.hidden = !busy;
  }

  #count() {
    const { input } = this.#view;
    if (!CSS.supports("field-sizing", "content")) {
      input.style.height = "auto";
      input.style.height = `${input.scrollHeight + 2}px`;
    }
    const left = QUESTION_LENGTH - input.value.length;
    this.#view.left.hidden = left > 80;
    this.#view.left.textContent = left > 80 ? "" : this.#speech.labels.left(left);
  }

  /** One message for screen readers; a new element, so that the same words twice are said twice. */
  #announce(message) {
    this.#view.status.replaceChildren(make("p", {}, message));
  }

  /** Changes the log and stays at its end, unless the citizen has scrolled up to read. */
  #keepingUp(change) {
    const { log, body } = this.#view;
    const away = [log, body].some((box) => box.scrollHeight - box.scrollTop - box.clientHeight > 90);
    change();
    if (!away) this.#scroll();
  }

  #scroll() {
    for (const box of [this.#view.log, this.#view.body]) box.scrollTop = box.scrollHeight;
  }
}
