"use strict";
const content = JSON.parse(document.getElementById("data").textContent);
const narrow = window.matchMedia("(max-width: 600px)");
const dark = window.matchMedia("(prefers-color-scheme: dark)");

// Colours are written as var(--name), and are whatever the style sheet says they are now.
function tinted(value, style) {
  if (typeof value === "string") {
    return value.startsWith("var(--") ? style.getPropertyValue(value.slice(4, -1)).trim() : value;
  }
  if (Array.isArray(value)) return value.map((one) => tinted(one, style));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, tinted(one, style)]));
}

// Plotly is packed: Python's base 85, then zlib. Every browser since 2023 can inflate.
async function unpack() {
  const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
  const values = new Uint8Array(128);
  for (let i = 0; i < letters.length; i++) values[letters.charCodeAt(i)] = i;
  const text = document.getElementById("plotly").textContent;
  const bytes = new DataView(new ArrayBuffer(Math.ceil(text.length / 5) * 4));
  for (let at = 0, to = 0; at < text.length; at += 5, to += 4) {
    let number = 0;
    for (let i = at; i < at + 5; i++) number = number * 85 + (i < text.length ? values[text.charCodeAt(i)] : 84);
    bytes.setUint32(to, number);
  }
  const whole = Math.floor((text.length * 4) / 5);
  const packed = new Blob([new Uint8Array(bytes.buffer, 0, whole)]).stream();
  const script = document.createElement("script");
  script.textContent = await new Response(packed.pipeThrough(new DecompressionStream("deflate"))).text();
  document.head.append(script);
}

function draw(canvas) {
  if (!window.Plotly) return; // still being unpacked
  const style = getComputedStyle(document.documentElement);
  const { data, layout } = tinted(content.figures[canvas.id], style);
  layout.template = tinted(content.template, style);
  if (narrow.matches) {
    layout.dragmode = false; // a finger scrolls the page
    layout.template.layout.font.size = 12;
    if (layout.meta === "square") {
      layout.height = canvas.clientWidth;
      canvas.style.height = `${layout.height}px`;
    }
  }
  Plotly.react(canvas, data, layout, {
    responsive: true,
    displaylogo: false,
    displayModeBar: narrow.matches ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  });
}

function drawAll() {
  for (const canvas of document.querySelectorAll(".canvas")) {
    if (!canvas.closest("[hidden]")) draw(canvas);
  }
}

for (const button of document.querySelectorAll("button[data-shows]")) {
  button.addEventListener("click", () => {
    const figure = button.closest("figure");
    for (const other of figure.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
    for (const canvas of figure.querySelectorAll(".canvas")) canvas.parentElement.hidden = canvas.id !== button.dataset.shows;
    draw(document.getElementById(button.dataset.shows));
  });
}

dark.addEventListener("change", drawAll);
narrow.addEventListener("change", drawAll);
unpack().then(drawAll, () => { document.getElementById("unpacked").hidden = false; });
