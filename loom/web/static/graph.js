// Draws the graph on a canvas: where everything is comes placed from the server; here it is moved, searched and chosen.
"use strict";
(() => {
  const place = document.getElementById("picture");
  if (!place) return;
  const canvas = document.getElementById("canvas"), find = document.getElementById("find");
  const chosenLine = document.getElementById("chosen");
  const root = document.body.dataset.root, pen = canvas.getContext("2d", { alpha: false });
  const WIDE = 264, HIGH = 40, BOX = 224, TALL = 30; // of a cell, and of the box in it
  const SMALL = 0.34; // below this scale a task is a mark without words
  const FEW = 6000; // edges that are drawn while the picture moves

  let nodes = [], edges = [], ways = new Set(), critical = [], waves = [], before = [], after = [], byId = new Map();
  let scale = 1, left = 0, top = 0, chosen = -1, hits = null, moving = 0, due = 0, unfolded = new Set(), bounds = [1, 1];
  let colours = {}, ratio = 1, whole = "";

  // --- what is drawn --------------------------------------------------------------------------------------------

  const SIGNS = {
    ready: [0, ""], claimed: [0, "M8 4.6a3.4 3.4 0 0 1 0 6.8z", 1], proving: [0, "m5.6 8.2 1.7 1.7 3.2-3.6"],
    landing: [0, "M8 4.8v5.6m-2.2-2.2L8 10.4l2.2-2.2"], blocked: [2, ""], retry: [3, "M12.9 5.4A5.6 5.6 0 1 0 13.6 8M13.4 2.6v3.2h-3.2"],
    dead: [1, "m5.8 5.8 4.4 4.4m0-4.4-4.4 4.4"], done: [1, "m5.2 8.3 2 2 3.6-4.2"], cancelled: [0, "M4.2 11.8l7.6-7.6"],
    epic: [3, "M4.6 3.6h6.8a2 2 0 0 1 2 2v4.8a2 2 0 0 1-2 2H4.6a2 2 0 0 1-2-2V5.6a2 2 0 0 1 2-2M5.4 7h5.2M5.4 9.6h3"],
  };
  const ring = new Path2D("M2.4 8a5.6 5.6 0 1 0 11.2 0 5.6 5.6 0 1 0-11.2 0"), disc = new Path2D("M1.7 8a6.3 6.3 0 1 0 12.6 0 6.3 6.3 0 1 0-12.6 0");
  for (const sign of Object.values(SIGNS)) sign[1] = new Path2D(sign[1]);

  function readColours() {
    const probe = document.createElement("i");
    probe.hidden = true;
    document.body.append(probe);
    const of = (name) => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
    colours = { page: of("page"), panel: of("panel"), text: of("text"), quiet: of("quiet"), edge: of("edge"), accent: of("accent"),
      needs: of("needs"), ready: of("ready"), claimed: of("working"), proving: of("proving"), landing: of("proving"), blocked: of("waiting"),
      retry: of("retry"), dead: of("dead"), done: of("done"), cancelled: of("waiting"), epic: of("waiting") };
    probe.remove();
  }

  async function load() {
    const answer = await fetch(`${place.dataset.from}?open=${[...unfolded].join(",")}`);
    if (!answer.ok) { if (!nodes.length) chosenLine.textContent = "The picture cannot be loaded now."; return; }
    const drawn = await answer.json(), held = nodes[chosen]?.id;
    nodes = drawn.nodes.map(([id, title, state, column, row, wave, inside, done]) =>
      ({ id, title, state, x: column * WIDE, y: row * HIGH + HIGH, wave, inside, done, column, row }));
    edges = drawn.edges;
    waves = drawn.waves;
    critical = drawn.critical;
    whole = `${drawn.count || "No"} task${drawn.count === 1 ? "" : "s"}${nodes.length < drawn.count ? `, drawn as ${nodes.length}: epics are folded; open one to see inside` : ""}${drawn.more ? `; ${drawn.more} more are left out` : ""}.`;
    ways = new Set(critical.slice(1).map((to, at) => critical[at] * nodes.length + to));
    byId = new Map(nodes.map((node, at) => [node.id, at]));
    before = nodes.map(() => []);
    after = nodes.map(() => []);
    for (let at = 0; at < edges.length; at += 2) { after[edges[at]].push(edges[at + 1]); before[edges[at + 1]].push(edges[at]); }
    bounds = [Math.max(...nodes.map((one) => one.x)) + BOX, Math.max(...nodes.map((one) => one.y)) + TALL];
    chosen = held === undefined ? -1 : byId.get(held) ?? -1;
    choose(chosen);
    search();
  }

  function draw() {
    due = 0;
    const wide = canvas.clientWidth, high = canvas.clientHeight;
    if (!wide) return;
    const now = [Math.round(wide * ratio), Math.round(high * ratio)];
    if (canvas.width !== now[0] || canvas.height !== now[1]) [canvas.width, canvas.height] = now;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = colours.page;
    pen.fillRect(0, 0, wide, high);
    if (!nodes.length) return;
    pen.setTransform(ratio * scale, 0, 0, ratio * scale, left * ratio, top * ratio);
    const x0 = -left / scale - BOX, y0 = -top / scale - TALL, x1 = (wide - left) / scale, y1 = (high - top) / scale;
    const seen = (node) => node.x > x0 && node.x < x1 && node.y > y0 && node.y < y1;
    if (scale > 0.18) drawWaves(y0);
    drawEdges(x0, y0, x1, y1);
    const there = nodes.filter(seen);
    if (scale < SMALL) drawMarks(there); else for (const node of there) drawBox(node);
    if (chosen >= 0) outline(nodes[chosen], colours.accent, 2.5);
  }

  function drawWaves(y0) {
    pen.font = `600 ${13 / Math.max(scale, 0.6)}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    for (const [column, wave] of waves) {
      pen.fillStyle = colours.quiet;
      pen.fillText(wave ? `Wave ${wave + 1}` : "Now", column * WIDE, Math.max(14, y0 + TALL + 14 / scale));
    }
  }

  function drawEdges(x0, y0, x1, y1) {
    const many = edges.length / 2 > FEW && scale < SMALL;
    if (many && moving) return;
    const near = chosen < 0 ? null : chosen, total = nodes.length;
    const plain = new Path2D(), way = new Path2D(), mine = new Path2D();
    for (let at = 0; at < edges.length; at += 2) {
      const from = nodes[edges[at]], to = nodes[edges[at + 1]];
      const ax = from.x + BOX, ay = from.y + TALL / 2, bx = to.x, by = to.y + TALL / 2;
      if (Math.max(ax, bx) < x0 || Math.min(ax, bx) > x1 || Math.max(ay, by) < y0 || Math.min(ay, by) > y1) continue;
      const path = edges[at] === near || edges[at + 1] === near ? mine : ways.has(edges[at] * total + edges[at + 1]) ? way : plain;
      path.moveTo(ax, ay);
      if (many) path.lineTo(bx, by);
      else { const bend = Math.max(24, Math.abs(bx - ax) / 2); path.bezierCurveTo(ax + bend, ay, bx - bend, by, bx, by); }
    }
    const stroke = (path, colour, width, alpha) => {
      pen.strokeStyle = colour; pen.lineWidth = width / Math.min(1, Math.max(scale, 0.15)); pen.globalAlpha = alpha; pen.stroke(path); pen.globalAlpha = 1;
    };
    stroke(plain, colours.quiet, 0.8, many ? 0.12 : chosen < 0 ? 0.4 : 0.2);
    stroke(way, colours.needs, 1.8, 0.9);
    stroke(mine, colours.accent, 1.8, 0.95);
  }

  function drawMarks(there) {
    const by = new Map();
    for (const node of there) { if (!by.has(node.state)) by.set(node.state, []); by.get(node.state).push(node); }
    for (const [state, some] of by) {
      pen.fillStyle = colours[state] ?? colours.quiet;
      for (const node of some) {
        pen.globalAlpha = hits && !hits.has(node.id) ? 0.15 : state === "done" || state === "cancelled" ? 0.45 : 0.9;
        pen.fillRect(node.x, node.y, BOX, TALL);
      }
    }
    pen.globalAlpha = 1;
  }

  function drawBox(node) {
    pen.globalAlpha = hits && !hits.has(node.id) ? 0.25 : node.state === "done" || node.state === "cancelled" ? 0.75 : 1;
    pen.fillStyle = colours.panel;
    pen.strokeStyle = colours.edge;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.roundRect(node.x, node.y, BOX, TALL, 7);
    pen.fill();
    pen.stroke();
    drawSign(node);
    pen.fillStyle = colours.text;
    pen.font = "12.5px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.fillText(label(node), node.x + 29, node.y + TALL / 2 + 0.5);
    pen.globalAlpha = 1;
  }

  function label(node) {
    if (node.label) return node.label;
    const full = node.inside ? `${node.done} of ${node.inside} · ${node.title}` : node.title;
    let cut = full;
    pen.font = "12.5px system-ui, sans-serif";
    while (cut.length > 1 && pen.measureText(cut === full ? cut : `${cut}…`).width > BOX - 40) cut = cut.slice(0, -Math.max(1, Math.floor(cut.length / 12)));
    return node.label = cut === full ? full : `${cut.trimEnd()}…`;
  }

  function drawSign(node) {
    const [kind, path, filled] = SIGNS[node.state] ?? SIGNS.blocked, colour = colours[node.state] ?? colours.quiet;
    pen.save();
    pen.translate(node.x + 8, node.y + TALL / 2 - 8);
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = 1.7;
    if (kind === 1) { pen.fill(disc); pen.strokeStyle = colours.panel; }
    else if (kind !== 3) { if (kind === 2) pen.setLineDash([2.2, 2.2]); pen.stroke(ring); pen.setLineDash([]); }
    if (filled) pen.fill(path); else pen.stroke(path);
    pen.restore();
  }

  function outline(node, colour, width) {
    pen.strokeStyle = colour;
    pen.lineWidth = width / Math.min(1, scale);
    pen.beginPath();
    pen.roundRect(node.x, node.y, BOX, TALL, 7);
    pen.stroke();
  }

  const later = () => { due ||= requestAnimationFrame(draw); };
  function moved() {
    clearTimeout(moving);
    moving = setTimeout(() => { moving = 0; later(); }, 120);
    later();
  }

  // --- moving ---------------------------------------------------------------------------------------------------

  function fit() {
    scale = Math.min(1, canvas.clientWidth / (bounds[0] + 40), canvas.clientHeight / (bounds[1] + 40));
    left = (canvas.clientWidth - bounds[0] * scale) / 2;
    top = Math.max(4, Math.min(48, (canvas.clientHeight - bounds[1] * scale) / 2));
    later();
  }
  // At first all of it where its words can be read, or it is too much; else what can be done now.
  function begin() {
    fit();
    const first = waves[0]?.[0] ?? 0;
    if (scale >= 0.6 || nodes.length > 300) return;
    scale = 0.8;
    left = 16 - Math.max(0, first) * WIDE * scale;
    top = 8;
  }
  function zoom(by, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    const next = Math.min(2.5, Math.max(0.02, scale * by));
    left = x - ((x - left) / scale) * next;
    top = y - ((y - top) / scale) * next;
    scale = next;
    moved();
  }
  function centre(node) {
    if (scale < 0.6) scale = 0.9;
    left = canvas.clientWidth / 2 - (node.x + BOX / 2) * scale;
    top = canvas.clientHeight / 2 - node.y * scale;
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey || event.metaKey || !event.shiftKey && Math.abs(event.deltaY) > Math.abs(event.deltaX)) zoom(Math.exp(-event.deltaY * 0.0016), event.offsetX, event.offsetY);
    else { left -= event.deltaX || event.deltaY; moved(); }
  }, { passive: false });

  const held = new Map();
  let dragged = 0, apart = 0;
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); held.set(event.pointerId, event); dragged = 0; apart = 0; });
  canvas.addEventListener("pointermove", (event) => {
    const last = held.get(event.pointerId);
    if (!last) return;
    held.set(event.pointerId, event);
    if (held.size === 2) {
      const [one, two] = [...held.values()], now = Math.hypot(one.offsetX - two.offsetX, one.offsetY - two.offsetY);
      if (apart) zoom(now / apart, (one.offsetX + two.offsetX) / 2, (one.offsetY + two.offsetY) / 2);
      apart = now;
      dragged = 99;
      return;
    }
    left += event.offsetX - last.offsetX;
    top += event.offsetY - last.offsetY;
    dragged += Math.abs(event.offsetX - last.offsetX) + Math.abs(event.offsetY - last.offsetY);
    moved();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => {
    held.delete(event.pointerId);
    if (end === "pointerup" && dragged < 5) choose(at(event.offsetX, event.offsetY));
  });
  canvas.addEventListener("dblclick", (event) => { const hit = at(event.offsetX, event.offsetY); if (hit >= 0) open(nodes[hit]); });

  function at(x, y) {
    const wx = (x - left) / scale, wy = (y - top) / scale, slack = scale < SMALL ? 4 / scale : 0;
    return nodes.findIndex((one) => wx >= one.x - slack && wx <= one.x + BOX + slack && wy >= one.y - slack && wy <= one.y + TALL + slack);
  }

  // --- choosing -------------------------------------------------------------------------------------------------

  const WORDS = { ready: "ready", claimed: "working", blocked: "waiting", retry: "to be tried again" };
  function choose(number, show = false) {
    chosen = number;
    const node = nodes[number];
    chosenLine.replaceChildren(node ? "" : whole);
    if (node) {
      if (show) centre(node);
      const link = document.createElement("a");
      link.href = `${root}/tasks/${node.id}`;
      link.textContent = node.title;
      link.dir = "auto";
      const words = [WORDS[node.state] ?? node.state, node.wave > 0 ? `wave ${node.wave + 1}` : "", node.inside ? `${node.done} of ${node.inside} done` : "",
        before[number].length ? `waits for ${before[number].length}` : "", after[number].length ? `waited for by ${after[number].length}` : ""];
      const said = document.createElement("span");
      said.className = "quiet";
      said.textContent = ` ${words.filter(Boolean).join(" · ")} `;
      chosenLine.append(link, said);
      if (node.inside || unfolded.has(node.id)) {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "small";
        button.textContent = node.inside ? "Open the epic" : "Fold the epic";
        button.addEventListener("click", () => unfold(node));
        chosenLine.append(button);
      }
    }
    later();
  }
  function open(node) { if (node.inside) unfold(node); else location.href = `${root}/tasks/${node.id}`; }
  async function unfold(node) {
    if (!unfolded.delete(node.id)) unfolded.add(node.id);
    await load();
    choose(byId.get(node.id) ?? -1, true);
  }
  function step(key) {
    if (chosen < 0) { choose(nodes.findIndex((one) => one.wave === 0 && one.state !== "epic"), true); return; }
    const node = nodes[chosen];
    const side = key === "ArrowRight" ? after[chosen] : key === "ArrowLeft" ? before[chosen] : [];
    if (side.length) { choose(side.reduce((best, one) => Math.abs(nodes[one].y - node.y) < Math.abs(nodes[best].y - node.y) ? one : best), true); return; }
    const way = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[key];
    let best = -1, nearest = Infinity;
    nodes.forEach((one, number) => {
      const dx = one.column - node.column, dy = one.row - node.row;
      if (way[0] ? Math.sign(dx) !== way[0] : Math.sign(dy) !== way[1]) return;
      const far = Math.abs(dx) * (way[0] ? 1 : 8) + Math.abs(dy) * (way[1] ? 1 : 8);
      if (far < nearest) [nearest, best] = [far, number];
    });
    if (best >= 0) choose(best, true);
  }
  canvas.addEventListener("keydown", (event) => {
    if (event.key.startsWith("Arrow")) step(event.key);
    else if (event.key === "Enter" && chosen >= 0) open(nodes[chosen]);
    else if (event.key === "+" || event.key === "=") zoom(1.3);
    else if (event.key === "-") zoom(1 / 1.3);
    else if (event.key === "0") fit();
    else if (event.key === "Escape") choose(-1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  function search() {
    const words = find.value.trim().toLowerCase();
    hits = words ? new Set(nodes.filter((one) => one.title.toLowerCase().includes(words) || one.id.includes(words)).map((one) => one.id)) : null;
    later();
  }
  find.addEventListener("input", search);
  find.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !hits?.size) return;
    const found = nodes.map((one, number) => number).filter((number) => hits.has(nodes[number].id));
    choose(found.find((number) => number > chosen) ?? found[0], true);
  });
  document.getElementById("fit").addEventListener("click", fit);
  document.getElementById("closer").addEventListener("click", () => zoom(1.3));
  document.getElementById("farther").addEventListener("click", () => zoom(1 / 1.3));

  // --- following ------------------------------------------------------------------------------------------------

  const ANEW = 5000; // milliseconds between two looks at where everything is
  let anew = 0;
  document.addEventListener("told", ({ detail }) => {
    let unknown = detail.much;
    for (const [task, what, state] of detail.events ?? []) {
      const node = nodes[byId.get(task)];
      if (!node) unknown ||= what === "task.created";
      else if (state && state !== node.state) { unknown ||= state === "done" || state === "cancelled"; node.state = state; }
    }
    later();
    if (unknown) anew ||= setTimeout(async () => { anew = 0; if (!document.hidden) await load(); }, ANEW);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); later(); });
  new ResizeObserver(later).observe(canvas);

  place.hidden = false;
  ratio = Math.min(2, window.devicePixelRatio || 1);
  readColours();
  draw(); // an empty page, until there is something on it
  load().then(begin);
})();
