"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const make = (tag, text, style) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (style) made.className = style;
    return made;
  };
  const size = (bytes) => {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let unit = 0;
    for (; bytes >= 1000 && unit < 4; unit++) bytes /= 1000;
    return unit ? `${bytes.toFixed(1)} ${units[unit]}` : `${bytes} B`;
  };
  const colour = (layer) => `c${layer % 12}`;

  // The theme: what the system has, until somebody asks for another.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  by("theme").hidden = false;
  by("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  });

  // The tree: rows of parent, name, bytes, layer (of a file).
  const nodes = data.tree.map(([parent, name, bytes, layer]) => ({ parent, name, bytes, layer, inside: [] }));
  nodes.forEach((node, index) => {
    if (index) nodes[node.parent].inside.push(node);
  });
  for (const node of nodes) {
    node.up = node.parent < 0 ? null : nodes[node.parent];
    const rest = node.bytes - node.inside.reduce((sum, one) => sum + one.bytes, 0);
    if (node.inside.length && rest > 0) node.inside.push({ name: "", bytes: rest, rest: true, inside: [], up: node });
    node.inside.sort((one, other) => other.bytes - one.bytes);
  }
  // A folder has the colour of what is largest in it; parents stand before their children.
  for (const node of nodes.slice().reverse()) {
    const largest = node.inside.find((one) => one.layer !== null && one.layer !== undefined);
    if (node.layer === null && largest) node.layer = largest.layer;
  }
  const path = (node) => {
    const names = [];
    for (let at = node; at && at.up; at = at.up) names.unshift(at.rest ? "…" : at.name);
    return "/" + names.join("/");
  };

  // A squarified treemap (Bruls, Huizing, van Wijk): rows of rectangles as near to squares as they come.
  const squarify = (items, box, place) => {
    const total = items.reduce((sum, item) => sum + item.bytes, 0);
    if (!total) return;
    const scale = (box.w * box.h) / total;
    let { x, y, w, h } = box;
    let start = 0;
    while (start < items.length && w > 0 && h > 0) {
      const side = Math.min(w, h);
      let end = start, area = 0, worst = Infinity;
      for (; end < items.length; end++) {
        const next = area + items[end].bytes * scale;
        const most = items[start].bytes * scale, least = items[end].bytes * scale;
        const ratio = Math.max((side * side * most) / (next * next), (next * next) / (side * side * least || 1e-9));
        if (end > start && ratio > worst) break;
        worst = ratio;
        area = next;
      }
      const thick = area / side;
      let along = 0;
      for (const item of items.slice(start, end)) {
        const long = area ? (item.bytes * scale) / thick : 0;
        place(item, w >= h ? { x, y: y + along, w: thick, h: long } : { x: x + along, y, w: long, h: thick });
        along += long;
      }
      if (w >= h) [x, w] = [x + thick, w - thick];
      else [y, h] = [y + thick, h - thick];
      start = end;
    }
  };

  const CELLS = 1500, DEEP = 8, HEAD = 17;
  const map = by("map");
  let here = nodes[0];
  const about = (node) => {
    const share = nodes[0].bytes ? ` (${((100 * node.bytes) / nodes[0].bytes).toFixed(1)} %)` : "";
    const where = node.rest || node.inside.length ? "" : `, layer ${node.layer}`;
    return `${node.rest ? path(node.up) + ": what is smaller than all that is shown" : path(node)}, ${size(node.bytes)}${share}${where}`;
  };
  const draw = (focus) => {
    map.replaceChildren();
    let left = CELLS;
    const [wide, high] = [map.clientWidth, map.clientHeight];
    const cell = (node, box, depth) => {
      if (box.w < 4 || box.h < 4 || left <= 0) return;
      left--;
      const folder = node.inside.length > 0;
      const inner = { x: box.x + 2, y: box.y + HEAD, w: box.w - 5, h: box.h - HEAD - 3 };
      const opened = folder && depth < DEEP && inner.w > 34 && inner.h > 16;
      const style = opened ? "folder" : node.rest || node.layer === null ? "rest" : colour(node.layer);
      const button = make("button", undefined, style);
      button.type = "button";
      button.node = node;
      button.tabIndex = depth || map.childElementCount ? -1 : 0;
      // In shares of the map: paper is narrower than the window that this was drawn for.
      button.style.left = `${(100 * box.x) / wide}%`;
      button.style.top = `${(100 * box.y) / high}%`;
      button.style.width = `${(100 * Math.max(box.w - 1, 2)) / wide}%`;
      button.style.height = `${(100 * Math.max(box.h - 1, 2)) / high}%`;
      button.title = about(node);
      button.setAttribute("aria-label", about(node));
      if (box.w > 34 && box.h > 15) {
        button.append(make("span", node.rest ? "others" : node.name + (folder ? "/" : ""), "isolate"));
        if (opened ? box.w > 110 : box.h > 34) button.append(make("small", size(node.bytes)));
      }
      map.append(button);
      if (opened) squarify(node.inside, inner, (child, place) => cell(child, place, depth + 1));
    };
    const box = { x: 1, y: 1, w: wide - 2, h: high - 2 };
    if (here.bytes) squarify(here.inside.length ? here.inside : [here], box, (node, place) => cell(node, place, 0));
    else map.append(make("p", "no files", "faint"));
    const crumbs = by("crumbs");
    crumbs.replaceChildren();
    const way = [];
    for (let at = here; at; at = at.up) way.unshift(at);
    for (const node of way) {
      const button = make("button", node.up ? node.name : "/", "isolate");
      button.type = "button";
      button.addEventListener("click", () => go(node, here));
      if (node === here) button.setAttribute("aria-current", "true");
      crumbs.append(button);
    }
    crumbs.append(make("span", `${size(here.bytes)}${here.up ? "" : " in all"}`));
    by("told").textContent = "";
    const chosen = focus && [...map.children].find((button) => button.node === focus);
    if (chosen) chosen.focus();
  };
  const go = (node, from) => {
    here = node;
    let inside = from;
    while (inside && inside.up !== node) inside = inside.up;
    draw(inside || node.inside[0]);
  };
  map.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.node.inside.length) go(button.node);
    else by("told").textContent = about(button.node);
  });
  for (const kind of ["mouseover", "focusin"])
    map.addEventListener(kind, (event) => {
      const button = event.target.closest("button");
      if (button) by("told").textContent = about(button.node);
    });
  map.addEventListener("keydown", (event) => {
    const all = [...map.querySelectorAll("button")];
    const at = all.indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (next !== undefined && all.length) {
      event.preventDefault();
      all[(next + all.length) % all.length].focus();
    } else if ((event.key === "Escape" || event.key === "Backspace") && here.up) {
      event.preventDefault();
      go(here.up, here);
    }
  });
  let width = 0;
  const redraw = () => {
    if (map.clientWidth !== width) {
      width = map.clientWidth;
      draw();
    }
  };
  new ResizeObserver(redraw).observe(map);
  redraw();

  // The search: all words, in any order, in the files that are there and in those that are gone.
  const box = by("search"), body = by("files"), count = by("found");
  const files = data.files.map((row) => [...row, row[0].toLowerCase()]);
  const SHOWN = 200;
  const search = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = files.filter((row) => words.every((word) => row[4].includes(word)));
    body.replaceChildren(
      ...found.slice(0, words.length ? SHOWN : 50).map(([name, bytes, layer, gone]) => {
        const row = make("tr");
        row.append(make("td", size(bytes), gone === null ? "n" : "n w"));
        const where = make("td", undefined, "n");
        where.append(make("i", undefined, `swatch ${colour(layer)}`), String(layer));
        row.append(where, make("td", name, "path"), make("td", gone === null ? "" : `gone in layer ${gone}`, "w"));
        return row;
      }),
    );
    const bytes = found.reduce((sum, row) => sum + row[1], 0);
    count.textContent = words.length
      ? `${found.length} of ${files.length}, ${size(bytes)}${found.length > SHOWN ? `; the first ${SHOWN} are shown` : ""}`
      : "";
  };
  by("find").hidden = false;
  box.addEventListener("input", search);
  addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== box && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      box.focus();
    } else if (event.key === "Escape" && document.activeElement === box) {
      box.value = "";
      search();
    }
  });
  document.documentElement.dataset.ready = "1";
})();
