// Loads the modules that the page names (`data-module="viewer"`); each has `start(element)`. htmx puts new parts into the
// page: their modules start then. Without JavaScript, all pages work with links and forms.

const base = new URL(".", import.meta.url);

async function start(element) {
  if (element.dataset.started) return;
  element.dataset.started = "yes";
  const module = await import(new URL(`${element.dataset.module}.js`, base));
  module.start(element);
}

function startBelow(root) {
  if (root.matches?.("[data-module]")) start(root);
  for (const element of root.querySelectorAll("[data-module]")) start(element);
}

startBelow(document);
document.addEventListener("htmx:load", (event) => startBelow(event.target));

// A menu that is open closes when something else is chosen.
const menu = document.querySelector("details.who");
document.addEventListener("click", (event) => {
  if (!menu.contains(event.target)) menu.open = false;
});
menu.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
