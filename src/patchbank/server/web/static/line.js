// The line, as it happens: events say that there is something new, and the newest state is read, at most five times a
// second. A pulse each second says that the service is there. Two seconds without one: the page says that it knows nothing.

const PULSE = 1000;
const SILENCE = 2000;
const BETWEEN = 200;

export function start(root) {
  let heard = performance.now();
  let leaving = false; // a form is on its way: the page that answers it is the newest
  const stations = new Map();
  for (const section of root.querySelectorAll("[data-station]")) {
    stations.set(section.dataset.station, { section, busy: false, again: false });
  }

  function lost(isLost) {
    root.classList.toggle("silent", isLost);
    root.querySelector(".lost").hidden = !isLost;
  }

  async function renew(station) {
    if (station.busy) {
      station.again = true; // whatever comes meanwhile: only the newest is read
      return;
    }
    station.busy = true;
    station.again = false;
    const live = station.section.querySelector(".live");
    try {
      await htmx.ajax("GET", `/line/${station.section.dataset.station}`, { target: live, swap: "innerHTML" });
    } catch {
      // the pulse finds out
    }
    setTimeout(() => {
      station.busy = false;
      if (station.again) renew(station);
    }, BETWEEN);
  }

  function compare(all) {
    if (leaving) return undefined;
    if ([...stations.keys()].sort().join() !== Object.keys(all).sort().join()) return location.reload();
    for (const [id, now] of Object.entries(all)) {
      const station = stations.get(id);
      const { section } = station;
      if ((now.state === "paused") !== (section.dataset.state === "paused")) return location.reload();
      const newest = section.querySelector(".band").dataset.newest;
      if (newest !== now.newest || section.dataset.state !== now.state) renew(station);
      section.dataset.state = now.state;
      if (now.seen) section.querySelector("[data-seen]").textContent = now.seen;
      section.querySelector("[data-waiting]").textContent = now.waiting ?? "–";
    }
  }

  async function pulse() {
    try {
      const answer = await fetch("/line/pulse", { signal: AbortSignal.timeout(SILENCE - 100), cache: "no-store" });
      if (answer.status === 401) return location.reload();
      if (answer.ok) {
        compare(await answer.json());
        heard = performance.now();
        lost(false);
      }
    } catch {
      // nothing was heard
    }
    setTimeout(pulse, PULSE);
  }

  root.addEventListener("submit", () => {
    leaving = true;
  });
  setInterval(() => {
    if (performance.now() - heard > SILENCE) lost(true);
  }, 250);
  const events = new EventSource("/api/v1/events?kind=inspection&kind=stream&kind=deployment");
  const told = (event) => {
    const station = stations.get(String(JSON.parse(event.data).stream_id));
    if (station) renew(station);
  };
  for (const kind of ["inspection", "stream", "deployment"]) events.addEventListener(kind, told);
  events.addEventListener("missed", () => stations.forEach(renew));
  pulse();
}
