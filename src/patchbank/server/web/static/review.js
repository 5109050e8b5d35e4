// The review queue by keyboard: G, D, U label the part, Z takes the last label back, L leaves it for later. A key counts
// once the part's image is on the screen, and once only: nobody labels what they have not seen.

export function start(work) {
  const shown = () => work.querySelector("[data-part]");

  function seen() {
    const image = work.querySelector(".base");
    return !image || image.complete;
  }

  function prepare() {
    const part = shown();
    if (part?.dataset.next) new Image().src = part.dataset.next;
    const image = work.querySelector(".base");
    const ready = () => work.setAttribute("data-ready", part?.dataset.part ?? "none");
    work.removeAttribute("data-ready");
    if (seen()) ready();
    else for (const kind of ["load", "error"]) image.addEventListener(kind, ready, { once: true });
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("input, select, textarea")) return;
    const button = work.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (!button || button.disabled || work.querySelector(".htmx-request") || !seen()) return;
    event.preventDefault();
    button.click();
  });
  work.addEventListener("htmx:afterSettle", prepare);
  prepare();
}
