// Loads the parts of the page that change with the log again, when the server says that there is something new. The page
// is complete without it.
"use strict";
(() => {
  const status = document.getElementById("live");
  let known = "", busy = false, again = false, verdict = text();

  function text() {
    const h = document.querySelector("h1.verdict .word");
    return h ? h.textContent.replace(/:$/, "") : "";
  }

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const fresh = page.querySelector(`[data-live="${part.dataset.live}"]`);
        // What the reader is in the middle of stays: a link that has the focus, a table that is unfolded, a selection.
        if (!fresh || fresh.innerHTML === part.innerHTML || part.contains(document.activeElement) ||
          part.querySelector("details[open]") || selected(part)) continue;
        part.replaceChildren(...Array.from(fresh.childNodes, (n) => document.importNode(n, true)));
      }
      document.title = page.title;
      if (text() !== verdict) {
        verdict = text();
        status.textContent = "The state of the log has changed: " + verdict;
      }
    } catch {
      // The monitor is away: the browser tries the events again, and then the page.
    } finally {
      // Not more than one request in two seconds, however fast the log grows.
      setTimeout(() => {
        busy = false;
        if (again) { again = false; refresh(); }
      }, 2000);
    }
  }

  function selected(part) {
    const s = document.getSelection();
    return s && !s.isCollapsed && part.contains(s.anchorNode);
  }

  const events = new EventSource("/events");
  events.addEventListener("state", (e) => {
    if (known && e.data !== known) refresh();
    known = e.data;
  });
})();
