/** Makes elements. Text of others enters the document as text nodes only, never as markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {string} tag "div", or "div.a.b" with classes
 * @param {Object<string, any>} [props] attributes; on… are listeners; null, undefined and false are left out
 * @param {...(Node|string|number|null|undefined)} children
 * @returns {HTMLElement}
 */
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag.split(".")[0]), tag, props, children);
}

/** The same for SVG. @returns {SVGElement} */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag.split(".")[0]), tag, props, children);
}

function fill(node, tag, props, children) {
  const classes = tag.split(".").slice(1);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  add(node, children);
  return node;
}

function add(node, children) {
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Replaces all that a node holds. */
export function put(node, ...children) {
  node.replaceChildren();
  add(node, children);
}

/** Sets a text only if it is another: a live region speaks, and a selection is lost, at each change. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A drop-down. @param {Array<[string, string]>} choices value and label */
export function select(label, choices, value, onchange) {
  const box = el("select", { onchange: () => onchange(box.value) });
  for (const [key, shown] of choices) box.append(el("option", { value: key }, shown));
  box.value = value;
  return el("label.choice", {}, el("span", {}, label), box);
}

/** A table in a box that scrolls. Each cell is text, a number (set to the right) or a node; "" heads actions. */
export function table(caption, heads, rows) {
  const isNumber = heads.map((_, i) => rows.length > 0 && isRight(rows[0][i]));
  return el("div.scroll", { tabindex: 0, role: "region", "aria-label": `Table: ${caption}` },
    el("table", {},
      el("caption.unseen", {}, caption),
      el("thead", {}, el("tr", {}, heads.map((head, i) => el(isNumber[i] ? "th.number" : "th", { scope: "col" },
        head || el("span.unseen", {}, "Action"))))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell))))));
}

function cell(value) {
  return el(isRight(value) ? "td.number" : "td", {}, value?.isNumber ? value.text : value ?? "–");
}

const isRight = (value) => typeof value === "number" || Boolean(value?.isNumber);

/** A number for a cell, as text. */
export const numeric = (text) => ({ isNumber: true, text });

const FOCUSABLE = "a[href], button, input, select, summary, [tabindex]";

/** Draws anew what is in a container, and leaves the focus where it was. */
export function keepFocus(container, draw) {
  const at = [...container.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  const scrolled = [...container.querySelectorAll(".scroll")].map((box) => [box.scrollLeft, box.scrollTop]);
  draw();
  container.querySelectorAll(".scroll").forEach((box, i) => scrolled[i] && box.scrollTo(...scrolled[i]));
  if (at >= 0) container.querySelectorAll(FOCUSABLE)[at]?.focus({ preventScroll: true });
}
