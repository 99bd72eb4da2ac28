// Returns the elements of the page, in document order, that can be read, clicked or filled, and keeps them in
// window.armapElements, where an action finds them by their number.
const apart = new Set(["query", "reward-display", "sync-task-cover", "click-canvas"]);
const whole = new Set(["A", "BUTTON", "OPTION", "TEXTAREA", "TEXT"]);
const silent = new Set(["SCRIPT", "STYLE", "BR", "HR"]);
const ticked = new Set(["checkbox", "radio"]);
const cut = (text) => text.replace(/\s+/g, " ").trim().slice(0, 100);
const found = [];
window.armapElements = [];

function ownText(element) {
  const parts = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
  return cut(parts.map((node) => node.data).join(" "));
}

function shows(element) {
  // A closed list has no room for its options on the screen, though they can be chosen.
  if (element.tagName === "OPTION") return true;
  const box = element.getBoundingClientRect();
  return box.width > 0 && box.height > 0 && getComputedStyle(element).visibility !== "hidden";
}

function describe(element) {
  const tag = element.tagName.toUpperCase();
  const input = tag === "INPUT";
  const types = (input && ["text", "password", "search", "number", "email", "tel"].includes(element.type)) ||
    tag === "TEXTAREA";
  const label = element.labels && element.labels.length ? element.labels[0].innerText : "";
  const said = types ? label : whole.has(tag) ? element.textContent : ownText(element);
  const states = [];
  if (input && ticked.has(element.type) && element.checked) states.push("checked");
  if (tag === "OPTION" && element.selected) states.push("selected");
  const box = element.getBoundingClientRect();
  const style = getComputedStyle(element);
  const drawn = element instanceof SVGElement;
  const kind = input ? (types ? "field" : element.type) : tag === "TEXTAREA" ? "field" : tag.toLowerCase();
  const named = cut(said || label || (input && !types ? element.value : "") || element.placeholder || "");
  return {
    kind: kind,
    text: named,
    value: types ? cut(element.value) : null,
    states: states,
    classes: typeof element.className === "string" ? element.className.trim() : "",
    colour: (drawn ? style.fill : style.backgroundColor).match(/[\d.]+/g),
    drawn: drawn,
    width: Math.round(box.width),
    at: [Math.round(box.left + box.width / 2), Math.round(box.top + box.height / 2)],
  };
}

function visit(element) {
  const tag = element.tagName.toUpperCase();
  if (apart.has(element.id) || silent.has(tag) || !shows(element)) return;
  const children = whole.has(tag) ? [] : [...element.children];
  // The label of a field is told with the field.
  const told = tag === "LABEL" && element.control && shows(element.control);
  const decoration = /ui-resizable-handle|ui-helper-hidden/.test(element.className);
  if (!told && !decoration && (children.length === 0 || ownText(element))) {
    window.armapElements.push(element);
    found.push(describe(element));
  }
  children.forEach(visit);
}

visit(document.body);
return found;
