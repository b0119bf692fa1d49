// A visit to a user study: rates every clip and prints what would be saved. Argument: the page's script.
const fs = require("fs"), vm = require("vm");
const aspects = ["sync", "fidelity", "realism"], forgetful = process.argv[3] === "forgetful";
const listening = thing => Object.assign(thing, {on: {}, addEventListener(kind, run) { this.on[kind] = run; }});
const scale = name => Array.from({length: 10}, (_, k) => listening({name, value: `${k + 1}`, checked: false}));
const radios = aspects.flatMap(scale);
const elements = {}, kept = {};
const byId = id => elements[id] ??= listening({removeAttribute() { this.src = null; }});
let saved, link;
const refuse = new Proxy({}, {get() { throw new Error("nothing is kept here"); }});
const page = {
  window: {scrollTo() {}},
  URL: {createObjectURL: () => "blob:"},
  Blob: class { constructor(parts) { saved = parts.join(""); } },
  localStorage: forgetful ? refuse : {getItem: key => kept[key] ?? null, setItem: (key, text) => { kept[key] = text; }},
  document: {
    getElementById: byId,
    querySelectorAll: () => radios,
    querySelector: what => radios.find(one => what.includes(`=${one.name}]`) && one.checked) ?? null,
    createElement: () => link = {click() {}},
  },
};
const open = () => vm.runInContext(fs.readFileSync(process.argv[2], "utf8"), vm.createContext({...page}));
open();
const shown = [];
for (let k = 0; !byId("clip").hidden; k++) {
  shown.push(byId("film").src);
  if (!byId("next").disabled) throw new Error("a clip can be left out");
  aspects.forEach((name, a) => {
    const one = radios.find(radio => radio.name === name && radio.value === `${1 + (k + 3 * a) % 10}`);
    one.checked = true;
    one.on.change();
  });
  byId("next").on.click();
  if (k === 1 && !forgetful) open();  // the page is closed and opened again
}
byId("save").on.click();
console.log(JSON.stringify({shown, saved, name: link.download}));
