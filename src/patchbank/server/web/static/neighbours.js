// The arrow keys go to the inspection before and after.

export function start(nav) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    if (event.target.closest("input, select, textarea, summary")) return;
    const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const link = rel && nav.querySelector(`a[rel=${rel}]`);
    if (link) link.click();
  });
}
