// The viewer of an image: wheel, pinch and buttons zoom, a finger or the mouse moves it, sliders fade what lies over it.

const MOST = 24;

export function start(figure) {
  const stage = figure.querySelector(".stage");
  const canvas = figure.querySelector(".canvas");
  const over = figure.querySelector(".over");
  let scale = 1;
  let x = 0;
  let y = 0;
  const fingers = new Map();

  const heat = figure.querySelector(".heat");
  const without = () => {
    heat.hidden = true;
    figure.querySelector("[data-tool=heat]").remove();
  };
  if (heat?.complete && !heat.naturalWidth) without();
  heat?.addEventListener("error", without, { once: true });
  for (const tool of figure.querySelectorAll("[data-tool]")) tool.hidden = false;
  stage.classList.add("live");

  function show() {
    const limit = (size) => size * (scale - 1);
    x = Math.min(0, Math.max(-limit(stage.clientWidth), x));
    y = Math.min(0, Math.max(-limit(stage.clientHeight), y));
    canvas.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    canvas.classList.toggle("pixels", scale > 6);
    canvas.style.setProperty("--scale", scale);
    stage.classList.toggle("moves", scale > 1);
    figure.dataset.scale = scale.toFixed(2);
  }

  function zoom(factor, atX = stage.clientWidth / 2, atY = stage.clientHeight / 2) {
    const next = Math.min(MOST, Math.max(1, scale * factor));
    x = atX - ((atX - x) * next) / scale;
    y = atY - ((atY - y) * next) / scale;
    scale = next;
    show();
  }

  function place(event) {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...place(event));
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => (scale > 1 ? zoom(0) : zoom(3, ...place(event))));
  stage.addEventListener("dragstart", (event) => event.preventDefault());
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    fingers.set(event.pointerId, place(event));
    if (scale > 1 || fingers.size > 1) stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    const before = [...fingers.values()];
    const [atX, atY] = place(event);
    const [fromX, fromY] = fingers.get(event.pointerId);
    fingers.set(event.pointerId, [atX, atY]);
    if (before.length === 1) {
      x += atX - fromX;
      y += atY - fromY;
      show();
    } else if (before.length === 2) {
      const after = [...fingers.values()];
      const wide = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]);
      zoom(wide(after) / Math.max(1, wide(before)), (after[0][0] + after[1][0]) / 2, (after[0][1] + after[1][1]) / 2);
    }
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    stage.addEventListener(kind, (event) => fingers.delete(event.pointerId));
  }

  for (const button of figure.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => zoom({ "-1": 1 / 1.6, 0: 0, 1: 1.6 }[button.dataset.zoom]));
  }
  const within = (name) => figure.querySelector(`[data-tool=${name}] input`);
  within("contours")?.addEventListener("change", (event) => {
    over.querySelector(".contours")?.toggleAttribute("hidden", !event.target.checked);
  });
  within("wipe")?.addEventListener("input", (event) => {
    over.style.clipPath = `inset(0 0 0 ${event.target.value}%)`;
  });
  within("heat")?.addEventListener("input", (event) => {
    heat.style.opacity = event.target.value / 100;
  });

  // A button of the table of regions: [data-look="x,y,w,h"] in pixels of the image.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-look]");
    if (!button || !figure.isConnected) return;
    const [left, top, width, height] = button.dataset.look.split(",").map(Number);
    const image = figure.querySelector(".base");
    const [wide, high] = [image.naturalWidth || image.width, image.naturalHeight || image.height];
    const unit = Math.min(image.clientWidth / wide, image.clientHeight / high); // the image is shown whole, in the middle
    const [offsetX, offsetY] = [(image.clientWidth - wide * unit) / 2, (image.clientHeight - high * unit) / 2];
    const wanted = 0.7 * Math.min(stage.clientWidth / (width * unit), stage.clientHeight / (height * unit));
    scale = Math.min(MOST, Math.max(1, wanted));
    x = stage.clientWidth / 2 - (offsetX + (left + width / 2) * unit) * scale;
    y = stage.clientHeight / 2 - (offsetY + (top + height / 2) * unit) * scale;
    show();
    stage.scrollIntoView({ block: "nearest" });
  });
  window.addEventListener("resize", show);
  show();
}
