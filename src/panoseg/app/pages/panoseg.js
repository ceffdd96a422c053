// What the pages cannot do in Python: uploads with progress, a grid of degrees, names under the mouse on a photograph.
"use strict";
window.panoseg = {
  // Sends a file to the API as the body of a request, then emits an event with the answer.
  upload(input, name) {
    const file = input.files[0], most = Number(input.dataset.most);
    if (file && file.size > most) {
      emitEvent(name, { error: `The file has ${Math.ceil(file.size / 2 ** 20)} MiB, but at most ${most / 2 ** 20} are allowed; choose a smaller one.` });
    } else if (file) panoseg.send(file, input.closest(".drop"), name);
    input.value = "";
  },
  send(file, box, name) {
    const request = new XMLHttpRequest();
    const bar = box.querySelector("progress");
    request.open("POST", "/api/uploads?name=" + encodeURIComponent(file.name.slice(-100)));
    request.upload.onprogress = (event) => (bar.value = event.lengthComputable ? event.loaded / event.total : 0);
    request.upload.onload = () => { bar.removeAttribute("value"); box.classList.add("checked"); };  // the server is reading it
    request.onloadend = () => {
      box.classList.remove("busy", "checked");
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { answer = { error: "The server does not respond; try again." }; }
      emitEvent(name, answer);
    };
    box.classList.add("busy");
    request.send(file);
  },
  // Browsers offer a clipboard only to local pages and over TLS; elsewhere the selection is copied.
  async copy(field) {
    field.select();
    try { await navigator.clipboard.writeText(field.value); } catch { return document.execCommand("copy"); }
    return true;
  },
  // Coasts, borders, lakes, rivers and towns, and lines of longitude and latitude on top.
  async world(map) {
    panoseg.graticule(map);
    const world = (panoseg.loaded ??= await (await fetch("/api/world")).json());
    const decode = (steps) => {
      const line = new Float32Array(steps.length);
      for (let at = 0; at < steps.length; at++) line[at] = steps[at] / world.unit + (at > 1 ? line[at - 2] : 0);
      return line;
    };
    const arcs = world.arcs.map(decode);
    const backwards = (arc) => {
      const turned = new Float32Array(arc.length);
      for (let at = 0; at < arc.length; at += 2) turned.set(arc.subarray(at, at + 2), arc.length - 2 - at);
      return turned;
    };
    const ring = (parts) => {
      const lines = parts.map((at) => (at < 0 ? backwards(arcs[~at]) : arcs[at]));
      const whole = new Float32Array(lines.reduce((sum, line) => sum + line.length, 0));
      let at = 0;
      for (const line of lines) { whole.set(line, at); at += line.length; }
      return whole;
    };
    const boxed = (line) => {
      const box = [Infinity, Infinity, -Infinity, -Infinity];
      for (let at = 0; at < line.length; at += 2) {
        box[0] = Math.min(box[0], line[at]); box[2] = Math.max(box[2], line[at]);
        box[1] = Math.min(box[1], line[at + 1]); box[3] = Math.max(box[3], line[at + 1]);
      }
      return { line, box };
    };
    const land = world.countries.flatMap(([, rings]) => rings.map((parts) => boxed(ring(parts))));
    const lakes = world.lakes.map((steps) => boxed(decode(steps)));
    const rivers = world.rivers.map((steps) => boxed(decode(steps)));
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--map-${name}`).trim();
    const Land = L.GridLayer.extend({
      createTile(at) {
        const tile = L.DomUtil.create("canvas", "leaflet-tile");
        const size = this.getTileSize(), corner = at.scaleBy(size), pen = tile.getContext("2d");
        tile.width = size.x; tile.height = size.y;
        const [a, b] = [map.unproject(corner, at.z), map.unproject(corner.add(size), at.z)];
        const turn = 360 * Math.round((a.lng + b.lng) / 720), scale = 256 * 2 ** at.z;
        const draw = (features, fill, stroke, width) => {
          pen.fillStyle = fill; pen.strokeStyle = stroke; pen.lineWidth = width; pen.lineJoin = "round";
          for (const { line, box } of features) for (const shift of [turn - 360, turn, turn + 360]) {
            if (box[0] + shift > b.lng || box[2] + shift < a.lng || box[1] > a.lat || box[3] < b.lat) continue;
            pen.beginPath();
            for (let n = 0; n < line.length; n += 2) {
              const sine = Math.sin((Math.max(-85, Math.min(85, line[n + 1])) * Math.PI) / 180);
              const x = ((line[n] + shift + 180) / 360) * scale - corner.x;
              pen.lineTo(x, (0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI)) * scale - corner.y);
            }
            if (fill) { pen.closePath(); pen.fill(); }
            if (stroke) pen.stroke();
          }
        };
        pen.fillStyle = colour("sea"); pen.fillRect(0, 0, size.x, size.y);
        draw(land, colour("land"), colour("border"), 1);
        if (at.z > 3) draw(rivers, "", colour("water"), at.z > 6 ? 1.4 : 0.8);
        draw(lakes, colour("sea"), colour("water"), 0.6);
        return tile;
      },
    });
    new Land({ zIndex: 0, noWrap: false }).addTo(map);
    map.createPane("towns").style.zIndex = 450;
    map.getPane("towns").style.pointerEvents = "none";
    const names = L.layerGroup().addTo(map);
    const label = () => {
      names.clearLayers();
      const view = map.getBounds(), taken = [];
      for (const [name, , x, y] of world.towns) {
        const lat = y / world.unit, middle = view.getCenter().lng;
        const lng = x / world.unit + 360 * Math.round((middle - x / world.unit) / 360);
        if (taken.length > 40) break;
        if (!view.contains([lat, lng])) continue;
        const at = map.latLngToContainerPoint([lat, lng]);
        const box = [at.x - 8, at.y - 12, at.x + 14 + 7 * name.length, at.y + 12];
        if (taken.some((b) => box[0] < b[2] && box[2] > b[0] && box[1] < b[3] && box[3] > b[1])) continue;
        taken.push(box);
        const html = document.createElement("span");
        html.textContent = name;
        const icon = L.divIcon({ className: "town", html, iconSize: [0, 0] });
        L.marker([lat, lng], { icon, pane: "towns", interactive: false, keyboard: false }).addTo(names);
      }
    };
    map.on("moveend zoomend resize", label);
    label();
    map.attributionControl?.setPrefix(false).addAttribution(world.sources);
    map.getContainer().dataset.world = "yes";
  },
  // Lines of longitude and latitude; they stay when a place is so close that nothing else is in sight.
  graticule(map) {
    const steps = [45, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
    const Grid = L.GridLayer.extend({
      createTile(at) {
        const tile = L.DomUtil.create("canvas", "leaflet-tile");
        const size = this.getTileSize();
        tile.width = size.x; tile.height = size.y;
        const pen = tile.getContext("2d");
        const corner = at.scaleBy(size);
        const [a, b] = [map.unproject(corner, at.z), map.unproject(corner.add(size), at.z)];
        const step = steps.find((s) => s <= (b.lng - a.lng) / 1.5) || steps.at(-1);
        const digits = Math.max(0, Math.ceil(-Math.log10(step)));
        pen.strokeStyle = "#7f8d8440"; pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--quiet"); pen.font = "11px system-ui, sans-serif";
        pen.beginPath();
        for (let lng = Math.ceil(a.lng / step) * step; lng < b.lng; lng += step) {
          const x = Math.round(map.project([a.lat, lng], at.z).x - corner.x) + 0.5;
          pen.moveTo(x, 0); pen.lineTo(x, size.y);
          if (x < size.x - 55) pen.fillText(lng.toFixed(digits) + "°", x + 4, 12);
        }
        for (let lat = Math.ceil(b.lat / step) * step; lat < a.lat; lat += step) {
          const y = Math.round(map.project([lat, a.lng], at.z).y - corner.y) + 0.5;
          pen.moveTo(0, y); pen.lineTo(size.x, y);
          if (y > 30) pen.fillText(lat.toFixed(digits) + "°", 4, y - 4);
        }
        pen.stroke();
        return tile;
      },
    });
    new Grid({ zIndex: 1 }).addTo(map);
    L.control.scale({ imperial: false }).addTo(map);
  },
  drawLine(map) { new L.Draw.Polyline(map, { shapeOptions: { color: "#1b2620", weight: 3 } }).enable(); },
  // Segments of a photograph: COCO's panoptic PNG holds each pixel's segment as red + 256 green + 65536 blue.
  photo(box) {
    const names = new Map(JSON.parse(box.dataset.segments).map((row) => [row.id, row]));
    const [canvas, label] = [box.querySelector("canvas"), box.querySelector("output")];
    const ids = new Image();
    ids.onload = () => {
      canvas.width = ids.naturalWidth; canvas.height = ids.naturalHeight;
      const hidden = document.createElement("canvas");
      hidden.width = canvas.width; hidden.height = canvas.height;
      const reader = hidden.getContext("2d", { willReadFrequently: true });
      reader.drawImage(ids, 0, 0);
      const data = reader.getImageData(0, 0, canvas.width, canvas.height).data;
      const idAt = (x, y) => { const p = 4 * (y * canvas.width + x); return data[p] + 256 * data[p + 1] + 65536 * data[p + 2]; };
      const pen = canvas.getContext("2d");
      let shown = 0;
      const show = (id) => {
        if (id === shown) return;
        shown = id;
        pen.clearRect(0, 0, canvas.width, canvas.height);
        if (!names.has(id)) return;
        const mask = pen.createImageData(canvas.width, canvas.height);
        for (let p = 0; p < data.length; p += 4) {
          const same = data[p] + 256 * data[p + 1] + 65536 * data[p + 2] === id;
          mask.data[p + 3] = same ? 0 : 130;
        }
        pen.putImageData(mask, 0, 0);
      };
      panoseg.showSegment = show;
      box.onmousemove = (event) => {
        const frame = canvas.getBoundingClientRect();
        const x = Math.floor(((event.clientX - frame.left) / frame.width) * canvas.width);
        const y = Math.floor(((event.clientY - frame.top) / frame.height) * canvas.height);
        if (x < 0 || y < 0 || x >= canvas.width || y >= canvas.height) return;
        const id = idAt(x, y);
        show(id);
        const row = names.get(id);
        label.style.display = row ? "block" : "none";
        if (!row) return;
        label.textContent = `${row.class} · ${Math.round(100 * row.score)} %`;
        label.style.left = Math.min(event.clientX - frame.left, frame.width - 180) + "px";
        label.style.top = event.clientY - frame.top + "px";
      };
      box.onmouseleave = () => { show(0); label.style.display = "none"; };
      box.dataset.ready = "yes";
    };
    ids.src = box.dataset.ids;
  },
};
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    const box = event.target.closest && event.target.closest(".drop");
    if (box) box.classList.toggle("over", type === "dragover");
    else if (type !== "dragleave" && event.dataTransfer?.types.includes("Files")) {
      event.preventDefault();  // a file that is dropped elsewhere would replace the page
      event.dataTransfer.dropEffect = "none";
    }
  });
}
document.addEventListener("keydown", (event) => {  // the latest correction is undone, unless text is being written
  const undo = [...document.querySelectorAll(".undo")].find((button) => button.checkVisibility());
  if (!undo || event.key.toLowerCase() !== "z" || event.shiftKey || !(event.ctrlKey || event.metaKey)) return;
  if (event.target.closest("input:not([type=range], [type=checkbox]), textarea")) return;
  event.preventDefault();
  undo.click();
});
