// What makes a page follow what happens, and answer to keys. Without it every page still works.
"use strict";
(() => {
  const body = document.body, root = body.dataset.root, live = document.getElementById("live");
  const main = () => document.getElementById("main");
  const typing = (element) => element?.matches?.("input, textarea, select");
  let cursor = body.dataset.since, source, sent, kept, over, due, back, last = 0, owed = false;

  // --- following ------------------------------------------------------------------------------------------------

  const REST = 100; // milliseconds between two looks, so that much news costs no more than some
  const AGAIN = 5000; // until what has failed is tried again
  const LINGERS = 8000; // that what was said of a form stays
  const held = () => [...main().querySelectorAll("form textarea, form input:not([type=hidden])")]
    .some((one) => one.type === "checkbox" ? one.checked !== one.defaultChecked : one.value !== one.defaultValue);

  function show(state, words) {
    if (!live) return;
    live.hidden = false;
    live.className = `live ${state}`;
    live.title = words;
    live.setAttribute("aria-label", words);
  }

  function look() {
    clearTimeout(due);
    if (held()) { owed = true; show("held", "Waits while you type"); return; }
    owed = false;
    last = Date.now();
    main().dispatchEvent(new CustomEvent("news"));
  }

  function concerns(told) {
    const wanted = main().dataset.live;
    if (!wanted) return false;
    return wanted === "all" || told.much || told.events.some(([task]) => wanted.split(" ").includes(task));
  }

  function heard(message) {
    cursor = message.lastEventId || cursor;
    const told = JSON.parse(message.data);
    document.dispatchEvent(new CustomEvent("told", { detail: told }));
    if (!concerns(told)) return;
    clearTimeout(due);
    due = setTimeout(look, Math.max(0, last + REST - Date.now()));
  }

  // A tab that nobody sees needs nothing; when it is seen again it catches up from its cursor.
  function follow() {
    source?.close();
    clearTimeout(back);
    if (document.hidden || !cursor) return;
    source = new EventSource(`${root}/live?since=${encodeURIComponent(cursor)}`);
    source.onmessage = heard;
    source.onopen = () => show("", "Live");
    source.onerror = () => {
      show("away", "Not connected; tried again");
      if (source.readyState === EventSource.CLOSED) refused();
    };
  }

  // A stream that was refused is not come back to by itself: either the server begins anew, or this browser is not let
  // in any more, which is said beside whatever somebody is typing.
  function refused() {
    clearTimeout(back);
    back = setTimeout(async () => {
      if (document.hidden) return;
      const answer = await fetch(document.querySelector("link[rel=icon]").href, { headers: { accept: "text/html" }, cache: "no-store" })
        .catch(() => undefined);
      if (answer?.ok) { say(); look(); follow(); return; }
      if (answer?.status === 401) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        document.getElementById("said").replaceChildren(...page.getElementById("said")?.children ?? []);
      }
      refused();
    }, AGAIN);
  }

  function say(words) {
    const told = document.createElement("p");
    told.className = "told trouble";
    told.setAttribute("role", "alert");
    told.textContent = words;
    document.getElementById("said").replaceChildren(...(words ? [told] : []));
  }
  document.addEventListener("visibilitychange", follow);
  window.addEventListener("pagehide", () => source?.close());
  window.addEventListener("pageshow", (event) => { if (event.persisted) follow(); });
  document.addEventListener("focusout", () => setTimeout(() => { if (owed && !held()) { show("", "Live"); look(); } }));
  follow();

  // What was not answered is said where a refusal would stand; a look that was refused is tried again.
  document.addEventListener("htmx:error", () => {
    if (!sent || !main().contains(sent)) return;
    say("The board does not answer. What you typed is still here; try again in a moment.");
  });
  document.addEventListener("htmx:response:error", (event) => {
    if (event.target === main()) { clearTimeout(due); due = setTimeout(look, AGAIN); }
  });

  // A form that is still there once it has done its work is empty again, and what it chose is not chosen any more.
  document.addEventListener("submit", (event) => { sent = event.target; }, true);
  // What was said of it stays for a while, although the page follows what it has done at once.
  document.addEventListener("htmx:after:swap", () => {
    const told = document.querySelector("#said .told");
    if (sent) keep(told);
    else if (kept && !told && Date.now() < kept.until) document.getElementById("said").replaceChildren(kept.told);
    if (sent?.isConnected && main().contains(sent) && !document.querySelector("#said .trouble")) sent.reset();
    sent = undefined;
  });
  function keep(told) {
    kept = told && { told: told.cloneNode(true), until: Date.now() + LINGERS };
    clearTimeout(over);
    if (told && !told.matches(".trouble")) over = setTimeout(() => { if (!document.querySelector("#said .trouble")) say(); }, LINGERS);
  }

  // --- times ----------------------------------------------------------------------------------------------------

  const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  function tick() {
    for (const one of document.querySelectorAll("time[datetime]")) {
      const seconds = Math.abs(Math.round((Date.now() - Date.parse(one.dateTime)) / 1000));
      const [unit, size] = UNITS.find(([, size]) => seconds >= size) ?? ["s", 1];
      const text = `${Math.floor(seconds / size)} ${unit}`;
      if (one.textContent !== text) one.textContent = text;
    }
  }
  setInterval(() => { if (!document.hidden) tick(); }, 10000);

  // --- keys -----------------------------------------------------------------------------------------------------

  const GO = { n: "/", b: "/board", g: "/graph", e: "/events", c: "/new" };
  function move(step) {
    const rows = [...main().querySelectorAll("[data-row]")];
    if (!rows.length) return;
    const at = rows.findIndex((row) => row.contains(document.activeElement));
    const next = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + step, 0), rows.length - 1)];
    next.querySelector("a")?.focus();
    next.scrollIntoView({ block: "nearest" });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && typing(document.activeElement)) { document.activeElement.blur(); return; }
    if (typing(document.activeElement)) return;
    if (event.key === "/") { event.preventDefault(); document.querySelector(".search input")?.focus(); }
    else if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
    else if (event.key === "x") document.activeElement?.closest?.("[data-row]")?.querySelector("[type=checkbox]")?.click();
    else if (GO[event.key]) location.href = root + GO[event.key];
  });
  document.addEventListener("focusin", (event) => {
    for (const row of document.querySelectorAll("[data-row].at")) row.classList.remove("at");
    event.target.closest?.("[data-row]")?.classList.add("at");
  });
})();
