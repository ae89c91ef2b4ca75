// The page of medvae app: sends scans one after the other, and shows what becomes of them.
(() => {
  const byId = (name) => document.getElementById(name);
  const { choices, mostBytes } = JSON.parse(byId("settings").textContent);
  const detector = byId("detector"), at = byId("at"), named = byId("named"), list = byId("scans"), drop = byId("drop");
  const STAGES = ["preparing", "scoring", "writing"], OTHER = "?";
  const BUSY_MS = 400, IDLE_MS = 4000; // between two looks at the queue
  const sending = []; // scans that wait or are being sent: { name, size, body, detector, at, sent }
  let scans = [], said = new Map(), version = -1, timer = 0, lost = false;

  const made = (name, text, kind) => {
    const element = document.createElement(name);
    if (text) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };
  const option = (value, text, title) => {
    const element = made("option", text);
    element.value = value;
    if (title) element.title = title;
    return element;
  };
  const size = (bytes) => (bytes < 1e5 ? (bytes / 1e3).toFixed(1) + " kB" : (bytes / 1e6).toFixed(1) + " MB");
  const say = (text) => { byId("said").textContent = text; };

  // What to predict with.
  for (const choice of choices) detector.append(option(choice.key, choice.name + " · " + choice.takes));
  function points() {
    const choice = choices.find((one) => one.key === detector.value);
    at.replaceChildren(option("", choice.own + (choice.points.length ? " (its own)" : "")));
    for (const point of choice.points) if (point.shown !== choice.own) at.append(option(point.name, point.shown, point.meaning));
    if (choice.points.length) at.append(option(OTHER, "another, by name"));
    meaning();
  }
  function meaning() {
    const choice = choices.find((one) => one.key === detector.value);
    const point = choice.points.find((one) => (at.value ? one.name === at.value : one.shown === choice.own));
    byId("other").hidden = at.value !== OTHER;
    byId("meaning").textContent = at.value === OTHER ? "As in medvae predict --at: fwer_0.2, fpv_5ml, rank_0.95."
      : point ? point.shown + ": " + point.meaning : "The sequence is that in the file's name (sub-01_FLAIR.nii.gz) or in DICOM's description, or else what the scan looks like.";
  }
  detector.addEventListener("change", points);
  at.addEventListener("change", meaning);
  points();

  // What comes.
  function take(found) {
    for (const one of found) {
      if (one.problem) refuse(one.name + ": " + one.problem);
      else if (one.size > mostBytes) refuse(one.name + ": has " + size(one.size) + ", and the limit is " + size(mostBytes) + ". Start medvae app with a larger --limit-mb, or predict it with medvae predict.");
      else sending.push({ ...one, detector: detector.value, at: at.value === OTHER ? named.value.trim() : at.value, sent: 0 });
    }
    show();
    send();
  }
  function refuse(text) {
    const line = made("li", "", "warning"), away = made("button", "Dismiss", "button");
    away.type = "button";
    away.addEventListener("click", () => line.remove());
    line.append(made("span", text), away);
    byId("refused").append(line);
    say(text);
  }
  let busy = false;
  async function send() {
    if (busy || !sending.length) return;
    busy = true;
    const one = sending[0];
    one.begun = true;
    show();
    try {
      const body = await one.body(); // a study is packed
      if (!one.dropped) await post(one, body);
    } catch { refuse(one.name + ": could not be read. Does it still lie where it lay?"); }
    sending.splice(sending.indexOf(one), 1);
    busy = false;
    look();
    send();
  }
  const post = (one, body) => new Promise((done) => {
    const request = one.request = new XMLHttpRequest();
    request.open("POST", "/api/scans?" + new URLSearchParams({ name: one.name, detector: one.detector, at: one.at }));
    request.upload.addEventListener("progress", (event) => { one.sent = event.loaded; show(); });
    request.addEventListener("loadend", () => {
      if (request.status === 201) say(one.name + " is queued.");
      else if (request.status) refuse(request.responseText);
      else if (!one.dropped) refuse(one.name + ": could not be sent. Is medvae app still running, and does it still lie where it lay?");
      done();
    });
    request.send(body);
  });
  byId("file").addEventListener("change", (event) => { take(medvaeDropped.ofFiles([...event.target.files])); event.target.value = ""; });
  byId("form").addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["dragenter", "dragover", "dragleave", "drop"])
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragenter" || name === "dragover");
      if (name === "drop") medvaeDropped.ofTransfer(event.dataTransfer).then(take, () => refuse("What was dropped could not be read."));
    });

  // Scans.
  async function act(method, path, question) {
    if (question && !confirm(question)) return;
    try {
      const answer = await fetch(path, { method });
      if (!answer.ok && answer.status !== 404) refuse(await answer.text());
    } catch { refuse("medvae app does not answer. Is it still running?"); }
    look();
  }
  async function look() {
    clearTimeout(timer);
    try {
      const answer = await fetch("/api/scans?since=" + version);
      if (!answer.ok) throw new Error(await answer.text());
      if (answer.status !== 204) ({ version, scans } = await answer.json());
      lost = false;
    } catch (error) {
      if (!lost) refuse(error instanceof TypeError ? "medvae app does not answer: it was stopped, perhaps. Start it again, and open the address that it shows." : error.message);
      lost = true;
    }
    show();
    tell();
    const busy = scans.some((scan) => scan.state === "queued" || scan.state === "running");
    timer = setTimeout(look, busy && !lost ? BUSY_MS : IDLE_MS);
  }
  function tell() { // to who does not see the list
    for (const scan of scans) {
      const before = said.get(scan.id);
      if (before && before !== scan.state) say(scan.name + ": " + sentence(scan));
      said.set(scan.id, scan.state);
    }
  }
  function sentence(scan) {
    const { found } = scan;
    if (scan.state === "queued") return "in the queue, " + (scan.before ? scan.before + " before it" : "the next");
    if (scan.state === "running") return scan.stage || "starting";
    if (scan.state !== "done") return scan.state;
    return found.volume_ml.toFixed(2) + " ml flagged in " + found.findings + (found.findings === 1 ? " finding" : " findings")
      + (found.p_value === null ? "" : ", p = " + found.p_value.toPrecision(3));
  }
  const when = (text) => new Date(text).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

  function button(text, name, run) {
    const element = made("button", text, "button");
    element.type = "button";
    element.setAttribute("aria-label", text + " " + name);
    element.addEventListener("click", run);
    return element;
  }
  function link(text, name, address, kind) {
    const element = made("a", text, kind);
    element.href = address;
    element.setAttribute("aria-label", text + " " + name);
    return element;
  }
  function card(scan) {
    const item = made("li", "", "card scan " + scan.state), actions = made("div", "", "actions"), { name, state } = scan;
    const path = "/api/scans/" + scan.id;
    item.append(made("h3", name));
    item.append(made("p", sentence(scan), "state"));
    if (state === "done") {
      actions.append(link("Open", name, "/scans/" + scan.id, "button main"));
      const save = link("Save", name, "/scans/" + scan.id + "/files/all", "button");
      save.download = "";
      save.title = "Map, mask, tables and ITK-SNAP workspace, with the scan (zip)";
      actions.append(save);
    }
    if (state === "failed" || state === "cancelled") {
      const series = made("input", "", "series");
      series.setAttribute("aria-label", "Series of " + name);
      series.placeholder = "series";
      series.value = scan.series;
      if (state === "failed" && scan.message.includes("--series")) actions.append(series);
      actions.append(button("Again", name, () => act("POST", path + "/again?" + new URLSearchParams({ series: series.value }))));
    }
    if (state === "queued" || state === "running") actions.append(button("Cancel", name, () => act("POST", path + "/cancel")));
    else actions.append(button("Delete", name, () => act("DELETE", path, "Delete " + name + " and its results from this computer?")));
    item.append(actions);
    if (state === "running") {
      const steps = made("ol", "", "plain steps wide"), now = STAGES.indexOf(scan.stage);
      STAGES.forEach((stage, number) => {
        const step = made("li", stage, number < now ? "past" : number === now ? "now" : "");
        if (number === now) step.setAttribute("aria-current", "step");
        steps.append(step);
      });
      item.append(steps);
    }
    const about = scan.found ? [scan.found.detector + " at " + scan.found.point, scan.found.seconds + " s"] : [scan.detector + (scan.at ? " at " + scan.at : "")];
    if (scan.series) about.push("series " + scan.series);
    if (scan.message) item.append(made("p", scan.message, "warning wide"));
    item.append(made("p", [...about, size(scan.size), when(scan.received)].join(" · "), "small quiet wide"));
    const warnings = scan.notes.filter((note) => !note.startsWith("detector: "));
    if (warnings.length) {
      const more = made("details", "", "wide small");
      more.append(made("summary", warnings.length + (warnings.length === 1 ? " note" : " notes") + " to read before trusting it"));
      for (const note of warnings) more.append(made("p", note, "note"));
      more.open = opened.has(scan.id);
      more.addEventListener("toggle", () => (more.open ? opened.add(scan.id) : opened.delete(scan.id)));
      item.append(more);
    }
    return item;
  }
  const opened = new Set();
  function coming(one) {
    const item = made("li", "", "card scan"), share = one.size ? Math.min(1, one.sent / one.size) : 0, actions = made("div", "", "actions");
    item.append(made("h3", one.name));
    item.append(made("p", one.request ? (share < 1 ? "reading, " + Math.round(100 * share) + " %" : "looking at what it is") : one.begun ? "reading" : "waits to be read", "state"));
    actions.append(button("Cancel", one.name, () => {
      one.dropped = true;
      if (one.request) one.request.abort();
      else if (!one.begun) sending.splice(sending.indexOf(one), 1);
      show();
    }));
    item.append(actions);
    return item;
  }

  // A card is made anew only if what it shows has changed, so that the focus stays where it is.
  const cards = new Map();
  function show() {
    const wanted = [], keep = new Set();
    const place = (key, content, make) => {
      const known = cards.get(key), text = JSON.stringify(content);
      let item = known && known.text === text ? known.item : null;
      if (!item) {
        item = make();
        const focused = known && known.item.contains(document.activeElement) && document.activeElement.textContent;
        cards.set(key, { text, item });
        if (known) known.item.replaceWith(item);
        if (focused) ([...item.querySelectorAll("a, button")].find((one) => one.textContent === focused) || item.querySelector("a, button") || list).focus();
      }
      keep.add(key);
      wanted.push(item);
    };
    for (const one of [...sending].reverse()) place(one, [one.sent, one.begun, Boolean(one.request)], () => coming(one));
    for (const scan of scans) place(scan.id, scan, () => card(scan));
    for (const [key, { item }] of cards) if (!keep.has(key)) { item.remove(); cards.delete(key); }
    wanted.forEach((item, index) => { if (list.children[index] !== item) list.insertBefore(item, list.children[index] || null); });
    byId("empty").hidden = wanted.length > 0 || lost;
    byId("ofall").hidden = !scans.some((scan) => scan.state === "done");
    const waiting = scans.filter((scan) => scan.state === "queued" || scan.state === "running").length + sending.length;
    document.title = (waiting ? "(" + waiting + ") " : "") + "medvae";
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  look().then(() => { document.documentElement.dataset.ready = "yes"; });
})();
