// The arrow keys go from part to part in a gallery or a table; Enter opens one, as for any link.

export function start(list) {
  const links = () => [...list.querySelectorAll("a[data-part]")];
  document.addEventListener("keydown", (event) => {
    if (!list.isConnected || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    if (event.target.closest("input, select, textarea, summary, [role=slider]")) return;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() }[event.key];
    if (!step) return;
    const all = links();
    const now = all.indexOf(document.activeElement);
    const next = now < 0 ? 0 : now + step;
    if (next < 0 || next >= all.length) return;
    event.preventDefault();
    all[next].focus();
    all[next].scrollIntoView({ block: "nearest" });
  });

  function columns() {
    const tops = links().map((link) => link.getBoundingClientRect().top);
    return Math.max(1, tops.filter((top) => top === tops[0]).length);
  }
}
