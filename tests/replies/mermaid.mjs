// Draws the charts of a JSON list on standard input with Mermaid, and prints what came of each: what the chart has
// configured, the texts of its boxes, how many boxes, arrows and odd elements there are. Run where `mermaid` and `jsdom`
// are installed.
import { JSDOM } from "jsdom";

const { window } = new JSDOM("<!DOCTYPE html><body></body>", { pretendToBeVisual: true });
Object.assign(globalThis, { window, document: window.document });
const needed = "Element HTMLElement SVGElement Node DOMParser XMLSerializer MutationObserver getComputedStyle CSSStyleSheet";
for (const name of needed.split(" ")) globalThis[name] = window[name];
window.SVGElement.prototype.getBBox = () => ({ x: 0, y: 0, width: 100, height: 20 }); // jsdom lays nothing out
window.SVGElement.prototype.getComputedTextLength = () => 100;

const { default: mermaid } = await import("mermaid");
mermaid.initialize({ startOnLoad: false });
let text = "";
for await (const part of process.stdin) text += part;
const seen = [];
for (const [number, chart] of JSON.parse(text).entries()) {
  const { config } = await mermaid.parse(chart);
  const { svg } = await mermaid.render(`chart${number}`, chart);
  const drawn = new JSDOM(svg).window.document;
  const count = (what) => drawn.querySelectorAll(what).length;
  drawn.querySelectorAll("br").forEach((one) => one.replaceWith("\n"));
  const labels = [...drawn.querySelectorAll(".nodeLabel")].map((one) => one.textContent);
  const odd = count("a, i, script, img, ul, ol, em, strong, math");
  seen.push({ config, labels, odd, shapes: [count("g.node"), count("g.cluster"), count("path.flowchart-link")] });
}
console.log(JSON.stringify(seen));
process.exit(0);
