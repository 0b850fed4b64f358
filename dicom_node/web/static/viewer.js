// Shows one radiograph: 16 bits of grey, windowed here, to be enlarged, moved and compared with the
// report. Without it the page shows pictures that the node has drawn. No library: those that were
// found are copyleft, or need a build and code made at run time, which the pages forbid.
"use strict";

(() => {
  const canvas = document.querySelector("#preview canvas");
  const figure = document.getElementById("preview");
  const still = figure?.querySelector("img");

  // A line instead of a browser's sign for a broken picture.
  function undrawn() {
    still.hidden = true;
    figure.querySelector(".undrawn").hidden = false;
    figure.querySelector(".tools").hidden = true;
  }
  if (still?.complete && !still.naturalWidth) undrawn();
  else still?.addEventListener("error", undrawn);

  if (!canvas || !("DecompressionStream" in window)) return;
  const output = document.getElementById("viewed");
  const context = canvas.getContext("2d", { alpha: false });
  const regions = JSON.parse(canvas.dataset.regions || "[]");
  const DEEP = { bone: "bone-data", local: "local-data" };
  const LARGEST = 16;
  const [LINEAR, EXACT, SIGMOID] = [0, 1, 2];

  // what is shown, in pixels of the whole image as it is drawn: square ones
  const view = { scale: 1, x: 0, y: 0, center: 0, width: 1, function: EXACT, inverted: false, regions: true };
  let drag = matchMedia("(pointer: coarse)").matches ? "pan" : "window";
  let image = null;
  let preset = "sent";
  let isFit = true;
  let asked = 0;
  const known = new Map();

  // Reading the picture ---------------------------------------------------------------------------

  async function load(name) {
    if (known.has(name)) return known.get(name);
    const answer = await fetch(`${canvas.dataset.source}?window=${name}`, { credentials: "same-origin" });
    if (!answer.ok) throw new Error(String(answer.status));
    const found = await decode(new Uint8Array(await answer.arrayBuffer()));
    known.set(name, found);
    return found;
  }

  // A browser's own decoder gives 8 bits; PNG (ISO/IEC 15948) of grey is quickly read.
  async function decode(bytes) {
    const data = new DataView(bytes.buffer);
    const latin = new TextDecoder("latin1");
    const text = {};
    const packed = [];
    let width = 0, height = 0;
    for (let at = 8; at + 12 <= bytes.length;) {
      const length = data.getUint32(at);
      const kind = latin.decode(bytes.subarray(at + 4, at + 8));
      const body = bytes.subarray(at + 8, at + 8 + length);
      if (kind === "IHDR") {
        width = data.getUint32(at + 8);
        height = data.getUint32(at + 12);
        if (body[8] !== 16 || body[9] !== 0 || body[12] !== 0) throw new Error("not 16 bits of grey");
      } else if (kind === "tEXt") {
        const [name, value] = latin.decode(body).split("\0");
        text[name] = value.split(" ").map(Number);
      } else if (kind === "IDAT") packed.push(body);
      at += 12 + length;
    }
    const stream = new Blob(packed).stream().pipeThrough(new DecompressionStream("deflate"));
    const lines = new Uint8Array(await new Response(stream).arrayBuffer());
    return {
      levels: [{ width, height, grey: unfiltered(lines, width, height) }],
      low: text.low[0], high: text.high[0],
      sent: [text.center[0], text.width[0], text.function[0]],
      lung: ends(text.lung), whole: ends(text.whole),
      columns: text.columns[0], rows: text.rows[0], across: text.across[0], down: text.down[0],
      width: text.columns[0] * text.across[0], height: text.rows[0] * text.down[0],
    };
  }

  const ends = ([low, high]) => [(low + high) / 2, Math.abs(high - low), EXACT];

  function unfiltered(lines, width, height) {
    const stride = 2 * width;
    const grey = new Uint16Array(width * height);
    let above = new Uint8Array(stride);
    for (let row = 0; row < height; row++) {
      const start = row * (stride + 1);
      const filter = lines[start];
      const line = lines.subarray(start + 1, start + 1 + stride);
      for (let i = 0; filter && i < stride; i++) {
        const a = i > 1 ? line[i - 2] : 0;
        const b = above[i];
        if (filter === 1) line[i] += a;
        else if (filter === 2) line[i] += b;
        else if (filter === 3) line[i] += (a + b) >> 1;
        else {
          const c = i > 1 ? above[i - 2] : 0;
          const pa = Math.abs(b - c), pb = Math.abs(a - c), pc = Math.abs(a + b - 2 * c);
          line[i] += pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
        }
      }
      for (let i = 0, to = row * width; i < stride; i += 2) grey[to++] = (line[i] << 8) | line[i + 1];
      above = line;
    }
    return grey;
  }

  // Half, a quarter … of the picture: what is drawn small is averaged, not thinned out.
  function level(scale) {
    const levels = image.levels, wanted = scale * Math.max(image.across, image.down);
    let place = 0;
    while (levels[place].width / image.columns / 2 >= wanted && levels[place].width > 64) {
      place += 1;
      if (!levels[place]) levels.push(halved(levels[place - 1]));
    }
    return levels[place];
  }

  function halved({ width, height, grey }) {
    const w = width >> 1, h = height >> 1;
    const small = new Uint16Array(w * h);
    for (let y = 0, to = 0; y < h; y++) {
      for (let x = 0, at = 2 * y * width; x < w; x++, at += 2) {
        small[to++] = (grey[at] + grey[at + 1] + grey[at + width] + grey[at + width + 1] + 2) >> 2;
      }
    }
    return { width: w, height: h, grey: small };
  }

  // Drawing -----------------------------------------------------------------------------------------

  const shades = new Uint32Array(65536);
  let shaded = "";

  function windowed(of) {
    const range = image.high - image.low || 1;
    // PS3.3 C.11.2.1.2: the limits of LINEAR are half a value off, SIGMOID is a curve.
    const off = view.function === LINEAR ? 1 : 0;
    const middle = (view.center - off / 2 - image.low) / range * 65535;
    const width = Math.max(1, (view.width - off) / Math.abs(range) * 65535);
    const key = [middle, width, view.function, view.inverted].join();
    if (key !== shaded) {
      const shown = view.function === SIGMOID
        ? (place) => 1 / (1 + Math.exp(-4 * place)) : (place) => Math.max(0, Math.min(1, place + .5));
      for (let s = 0; s < 65536; s++) {
        let grey = Math.round(255 * shown((s - middle) / width));
        if (view.inverted) grey = 255 - grey;
        shades[s] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
      }
      shaded = key;
    }
    if (of.shaded !== key) {
      of.canvas ||= Object.assign(document.createElement("canvas"), { width: of.width, height: of.height });
      const drawn = of.canvas.getContext("2d", { alpha: false });
      of.pixels ||= drawn.createImageData(of.width, of.height);
      const to = new Uint32Array(of.pixels.data.buffer);
      const { grey } = of;
      for (let i = 0; i < grey.length; i++) to[i] = shades[grey[i]];
      drawn.putImageData(of.pixels, 0, 0);
      of.shaded = key;
    }
    return of.canvas;
  }

  function draw() {
    asked = 0;
    if (!image) return;
    const shown = level(view.scale);
    const left = canvas.width / 2 - view.x * view.scale, top = canvas.height / 2 - view.y * view.scale;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = view.scale * image.width / shown.width < 4;
    context.imageSmoothingQuality = "high";
    context.drawImage(windowed(shown), left, top, image.width * view.scale, image.height * view.scale);
    if (view.regions) regions.forEach((one) => outline(one, left, top));
    tell(shown);
  }

  function outline({ words, points: stored }, left, top) {
    const dense = devicePixelRatio || 1;
    const points = stored.map(([x, y]) => [x * image.across, y * image.down]);
    context.beginPath();
    points.forEach(([x, y]) => context.lineTo(left + x * view.scale, top + y * view.scale));
    context.closePath();
    for (const [colour, width] of [["#000", 4], ["#ffd24d", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * dense;
      context.stroke();
    }
    const x = left + Math.min(...points.map((p) => p[0])) * view.scale;
    const y = top + Math.min(...points.map((p) => p[1])) * view.scale - 5 * dense;
    context.font = `${14 * dense}px sans-serif`;
    context.lineWidth = 3 * dense;
    context.strokeStyle = "#000";
    context.strokeText(words, x, Math.max(15 * dense, y));
    context.fillStyle = "#ffd24d";
    context.fillText(words, x, Math.max(15 * dense, y));
  }

  const short = (number) => Number(number.toPrecision(4)).toString();

  function tell(shown) {
    const size = image.levels[0].width < image.columns ? ` · ${image.levels[0].width}/${image.columns} px` : "";
    output.textContent = `W ${short(view.width)} · C ${short(view.center)} · ${Math.round(100 * view.scale)} %${size}`;
    Object.assign(canvas.dataset, {
      zoom: view.scale.toFixed(4), center: short(view.center), width: short(view.width), preset,
      shape: (image.down / image.across).toFixed(3), function: view.function,
      inverted: view.inverted, pixels: image.levels[0].width, level: shown.width,
      x: view.x.toFixed(1), y: view.y.toFixed(1), drag, regions: JSON.stringify(regions),
    });
    canvas.style.touchAction = drag === "pan" && isFit ? "pan-y" : "none";
  }

  function redraw() {
    if (!asked) asked = requestAnimationFrame(draw);
  }

  // Size and place ----------------------------------------------------------------------------------

  const fitting = () => Math.min(canvas.width / image.width, canvas.height / image.height);

  function fit() {
    isFit = true;
    view.scale = fitting();
    view.x = image.width / 2;
    view.y = image.height / 2;
    redraw();
  }

  function zoom(factor, at = [canvas.width / 2, canvas.height / 2]) {
    const before = view.scale;
    const least = Math.min(fitting(), 1) / 2;
    view.scale = Math.max(least, Math.min(LARGEST, before * factor));
    view.x += (at[0] - canvas.width / 2) * (1 / before - 1 / view.scale);
    view.y += (at[1] - canvas.height / 2) * (1 / before - 1 / view.scale);
    isFit = false;
    held();
    whole();
  }

  function move(dx, dy) {
    view.x -= dx / view.scale;
    view.y -= dy / view.scale;
    isFit = false;
    held();
  }

  function held() {
    view.x = Math.max(0, Math.min(image.width, view.x));
    view.y = Math.max(0, Math.min(image.height, view.y));
    redraw();
  }

  // Every pixel, once somebody looks as close as that.
  async function whole() {
    const { columns, across, down, levels } = image;
    if (image !== known.get("data") || levels[0].width >= columns) return;
    if (view.scale * Math.max(across, down) <= levels[0].width / columns) return;
    const reduced = image;
    canvas.dataset.loading = "full";
    try {
      const full = await load("full");
      known.set("data", full);
      if (image === reduced) image = full;
    } catch { /* the reduced one stays */ }
    delete canvas.dataset.loading;
    redraw();
  }

  async function choose(name) {
    canvas.dataset.loading = name;
    try {
      image = await load(DEEP[name] || "data");
    } catch {
      location.assign(`?window=${name}`);
      return;
    }
    delete canvas.dataset.loading;
    preset = name;
    [view.center, view.width, view.function] = image[name] || image.sent;
    for (const link of figure.querySelectorAll("a[data-preset]")) {
      if (link.dataset.preset === name) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    redraw();
    whole();
  }

  // What people do ----------------------------------------------------------------------------------

  const acts = {
    larger: () => zoom(1.4),
    smaller: () => zoom(1 / 1.4),
    one: () => zoom(1 / view.scale),
    invert: () => { view.inverted = !view.inverted; press("invert", view.inverted); redraw(); },
    pan: () => { drag = drag === "pan" ? "window" : "pan"; press("pan", drag === "pan"); redraw(); },
    regions: () => { view.regions = !view.regions; press("regions", view.regions); redraw(); },
    reset: () => {
      if (view.inverted) acts.invert();
      fit();
      choose("sent");
    },
  };

  function press(name, isOn) {
    figure.querySelector(`[data-view=${name}]`)?.setAttribute("aria-pressed", String(isOn));
  }

  function shift(byCenter, byWidth) {
    const range = Math.abs(image.high - image.low) || 1;
    // towards brighter is downwards where low values are bright
    view.center += byCenter * range * Math.sign(image.high - image.low || 1);
    view.width = Math.max(range / 4096, view.width * Math.exp(byWidth));
    redraw();
  }

  const keys = {
    "+": acts.larger, "=": acts.larger, "-": acts.smaller, 1: acts.one, 0: acts.reset, i: acts.invert,
    r: acts.regions, m: acts.pan, s: () => choose("sent"), b: () => choose("bone"),
    l: () => choose("lung"), w: () => choose("whole"), "[": () => shift(0, -.15), "]": () => shift(0, .15),
    ",": () => shift(.02, 0), ".": () => shift(-.02, 0), ArrowLeft: () => move(60, 0),
    ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60),
  };

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !image || !keys[event.key]) return;
    keys[event.key]();
    event.preventDefault();
    event.stopPropagation();
  });

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const dense = canvas.width / box.width;
    return [(event.clientX - box.left) * dense, (event.clientY - box.top) * dense];
  };

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    if (image) zoom(Math.exp(-event.deltaY * lines / 400), place(event));
  }, { passive: false });

  canvas.addEventListener("dblclick", (event) => {
    if (!image) return;
    if (view.scale > 1.9 * fitting()) fit();
    else zoom(2, place(event));
  });

  const fingers = new Map();
  const spread = () => {
    const [a, b] = [...fingers.values()];
    return [Math.hypot(a[0] - b[0], a[1] - b[1]), [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2]];
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (!image || event.button > 1) return;
    fingers.set(event.pointerId, place(event));
    try { canvas.setPointerCapture(event.pointerId); } catch { /* the finger has just gone */ }
    if (event.button === 1) event.preventDefault();
  });

  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = place(event);
    if (fingers.size === 2) {
      const [was, middle] = spread();
      fingers.set(event.pointerId, now);
      const [is, next] = spread();
      move(next[0] - middle[0], next[1] - middle[1]);
      if (was > 0) zoom(is / was, next);
      return;
    }
    fingers.set(event.pointerId, now);
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    const isMove = drag === "pan" || event.shiftKey || (event.buttons & 4);
    if (!isMove) shift(-dy / canvas.height, 2 * dx / canvas.width);
    else if (event.pointerType !== "touch" || !isFit) move(dx, dy);
  });

  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }

  figure.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-view], a[data-preset]");
    if (!button || !image) return;
    event.preventDefault();
    if (button.dataset.preset) choose(button.dataset.preset);
    else acts[button.dataset.view]();
  });

  function resized() {
    const box = canvas.getBoundingClientRect();
    const dense = devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * dense), Math.round(box.height * dense)];
    if (!width || (width === canvas.width && height === canvas.height)) return;
    canvas.width = width;
    canvas.height = height;
    if (isFit) fit();
    else redraw();
  }

  async function start() {
    const name = canvas.dataset.window;
    try {
      image = await load(DEEP[name] || "data");
    } catch {
      return; // colours, or a file that cannot be drawn: the picture of before stays
    }
    canvas.hidden = false;
    still.hidden = true;
    for (const part of figure.querySelectorAll(".script")) part.hidden = false;
    press("pan", drag === "pan");
    canvas.style.aspectRatio = `${image.width} / ${image.height}`;
    canvas.width = canvas.height = 0;
    resized();
    fit();
    await choose(name === "inverted" ? "sent" : name);
    if (name === "inverted") acts.invert();
    new ResizeObserver(resized).observe(canvas);
    canvas.dataset.state = "ready";
  }

  start();
})();
