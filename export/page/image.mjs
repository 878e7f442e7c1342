// Images: draw one, drop, paste or choose one, and see the classes.

import { verdict } from "./charts.mjs";
import { el, json, latest } from "./dom.mjs";
import { numbers } from "./golden.mjs";

const PAD = 320; // pixels of the drawing, a side, or as many as the input has
const PEN = 0.1; // of the side: a drawing that is cut to its ink then has strokes as wide as a scan's
const COARSE = 4; // a drawing has this many times fewer pixels a side, and is as soft as a scan
const LUMA = [0.299, 0.587, 0.114]; // Rec. 601

/** The input as an image: where its axes are; undefined where it is none. */
function imageOf({ inputs }) {
  const [port] = inputs;
  if (inputs.length !== 1 || port.shape.length !== 4 || !["float32", "uint8"].includes(port.dtype)) return undefined;
  const [batch, a, b, c] = port.shape;
  if (typeof batch === "number" && batch !== 1) return undefined;
  const fit = (channels, height, width) => [1, 3, 4].includes(channels) && height >= 8 && width >= 8;
  if (fit(a, b, c)) return { port, first: true, channels: a, height: b, width: c };
  return fit(c, a, b) ? { port, first: false, channels: c, height: a, width: b } : undefined;
}

export const fits = (model) => imageOf(model) !== undefined && model.outputs[0].shape.length === 2;

export async function show(model, root) {
  const image = imageOf(model);
  const [names, config, cases] = await Promise.all([json(model, "labels.json"), json(model, "preprocessor_config.json"), model.golden()]);
  const examples = cases.flatMap(({ inputs }) => rows(inputs[image.port.name]));
  const draws = image.channels === 1;
  const side = Math.max(PAD, image.width, image.height);
  const pad = el("canvas", { class: draws ? "pad draws" : "pad", width: side, height: side, role: "img" });
  const brush = pad.getContext("2d", { willReadFrequently: true });
  const seen = el("canvas", { class: "seen", width: image.width, height: image.height, role: "img", "aria-label": "What the model sees" });
  const answer = verdict(names);
  const invert = el("input", { type: "checkbox", onchange: () => look() });
  let [holds, next] = ["nothing", 0]; // what the pad holds: nothing, an example, a picture or a drawing

  const classify = latest(async (tensor) => {
    paint(seen, tensor, image);
    const outputs = await model.run({ [image.port.name]: tensor });
    answer.tell(outputs[model.outputs[0].name]);
  }, answer.note);

  const hold = (what, label) => {
    holds = what;
    pad.setAttribute("aria-label", label);
  };
  const wipe = () => {
    brush.fillStyle = "#000";
    brush.fillRect(0, 0, side, side);
    hold("nothing", "Empty: draw here");
    answer.clear(draws ? "Draw something." : "Drop, paste or open a picture.");
    seen.getContext("2d").clearRect(0, 0, image.width, image.height);
  };
  const look = () => holds !== "nothing" && classify(tensorOf(image, sampled(pad, image, holds === "drawing"), config, invert.checked));
  const example = () => {
    const tensor = examples[next++ % examples.length];
    paint(seen, tensor, image);
    brush.drawImage(seen, 0, 0, side, side);
    hold("example", "A sample that came with the model");
    return classify(tensor);
  };
  const open = async (file) => {
    try {
      const picture = await createImageBitmap(file);
      const { width, height } = picture;
      const cut = Math.min(width, height); // the middle square
      wipe();
      brush.drawImage(picture, (width - cut) / 2, (height - cut) / 2, cut, cut, 0, 0, side, side);
      hold("picture", file.name || "The picture");
      await look();
    } catch (error) {
      answer.note.textContent = `${file.name || "This"} cannot be opened as a picture; choose a PNG, JPEG or WebP file`;
    }
  };

  const file = el("input", { type: "file", accept: "image/*", id: "file", onchange: () => open(file.files[0]) });
  for (const event of ["dragover", "drop", "paste"]) {
    addEventListener(event, (happened) => {
      const [dropped] = (happened.dataTransfer ?? happened.clipboardData).files;
      if (happened.type !== "paste") happened.preventDefault(); // else the browser would leave the page for the picture
      if (dropped) open(dropped);
    });
  }
  if (draws) drawing(pad, brush, () => holds !== "drawing" && (wipe(), hold("drawing", "Your drawing")), look);
  root.replaceChildren(
    el("div", { class: "two" },
      el("div", {}, pad,
        el("div", { class: "row" },
          examples.length && el("button", { onclick: example }, "Example"), draws && el("button", { onclick: wipe }, "Clear"),
          file, el("label", { class: "button", for: "file" }, "Open picture")),
        el("p", { class: "quiet" }, draws ? "Draw above, or drop or paste a picture." : "Or drop or paste a picture.")),
      el("div", {}, ...answer.nodes,
        el("div", { class: "row" }, seen, el("div", { class: "quiet" }, `What the model sees: ${image.width} × ${image.height}. `,
          config ? "Scaled as preprocessor_config.json says." : `Values from 0 to ${image.port.dtype === "uint8" ? 255 : 1}.`,
          draws && el("label", { class: "check" }, invert, " dark on light: invert"))))));
  wipe();
  if (examples.length) await example();
}

/** The rows of a tensor along its first axis, each as a batch of one. */
function rows({ dtype, shape, data }) {
  const size = data.length / shape[0];
  return Array.from({ length: shape[0] }, (_, i) => ({ dtype, shape: [1, ...shape.slice(1)], data: data.slice(i * size, (i + 1) * size) }));
}

/** Strokes of mouse, pen or finger. */
function drawing(pad, brush, begin, look) {
  let last;
  const place = ({ clientX, clientY }) => {
    const { left, top, width } = pad.getBoundingClientRect();
    return [((clientX - left) * pad.width) / width, ((clientY - top) * pad.width) / width];
  };
  const stroke = (event) => {
    if (!last) return;
    Object.assign(brush, { strokeStyle: "#fff", lineWidth: PEN * pad.width, lineCap: "round", lineJoin: "round" });
    brush.beginPath();
    brush.moveTo(...last);
    for (const point of event.getCoalescedEvents?.() ?? []) brush.lineTo(...place(point));
    brush.lineTo(...(last = place(event)));
    brush.stroke();
    look();
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    begin();
    last = place(event);
    stroke(event);
  });
  pad.addEventListener("pointermove", stroke);
  for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => (last = undefined));
}

const canvas = (width, height) => Object.assign(document.createElement("canvas"), { width, height }).getContext("2d", { willReadFrequently: true });

/** The pad's pixels at the input's size, as RGBA bytes. */
function sampled(pad, { width, height }, isDrawing) {
  const small = canvas(width, height);
  small.imageSmoothingQuality = isDrawing ? "low" : "high"; // low is bilinear, which is right to enlarge
  small.drawImage(isDrawing ? scanned(pad, Math.ceil(width / COARSE), Math.ceil(height / COARSE)) : pad, 0, 0, width, height);
  return small.getImageData(0, 0, width, height).data;
}

/** A drawing as a coarse scan: cut to its ink, which fills it and is centred; a pixel is the mean of what it covers. */
function scanned(pad, columns, lines) {
  const { data, width } = pad.getContext("2d").getImageData(0, 0, pad.width, pad.height);
  const [left, top, wide, high] = ink(data, width);
  const step = Math.max(wide, high) / Math.min(columns, lines);
  const [x0, y0] = [(columns * step - wide) / 2, (lines * step - high) / 2];
  const sums = new Float64Array(columns * lines);
  for (let y = 0; y < high; y++) {
    for (let x = 0; x < wide; x++) {
      sums[Math.floor((y0 + y) / step) * columns + Math.floor((x0 + x) / step)] += data[4 * ((top + y) * width + left + x)];
    }
  }
  const scan = canvas(columns, lines);
  const picture = scan.createImageData(columns, lines);
  sums.forEach((sum, i) => picture.data.set([sum, sum, sum].map((x) => x / step ** 2).concat(255), 4 * i));
  scan.putImageData(picture, 0, 0);
  return scan.canvas;
}

/** The box around what is drawn: left, top, width, height. */
function ink(rgba, side) {
  let [left, top, right, bottom] = [side, side, 1, 1];
  for (let i = 0; i < side * side; i++) {
    if (rgba[4 * i] < 64) continue;
    const [x, y] = [i % side, Math.floor(i / side)];
    [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x + 1), Math.max(bottom, y + 1)];
  }
  return [left, top, right - left, bottom - top];
}

/** RGBA bytes as the input: scaled and normalized in the terms of Hugging Face's image processors. */
function tensorOf({ port, first, channels, width, height }, rgba, config = {}, invert = false) {
  const whole = port.dtype === "uint8";
  const factor = whole || config.do_rescale === false ? 1 : (config.rescale_factor ?? 1 / 255);
  const normal = config.do_normalize && config.image_mean && !whole;
  const [mean, std] = normal ? [config.image_mean, config.image_std].map((x) => [x].flat()) : [[0], [1]];
  const data = new (whole ? Uint8Array : Float32Array)(channels * width * height);
  for (let i = 0; i < width * height; i++) {
    const pixel = rgba.subarray(4 * i, 4 * i + 4);
    const values = channels === 1 ? [LUMA.reduce((sum, share, c) => sum + share * pixel[c], 0)] : pixel;
    for (let c = 0; c < channels; c++) {
      const value = (invert ? 255 - values[c] : values[c]) * factor;
      data[first ? c * width * height + i : i * channels + c] = (value - (mean[c] ?? mean[0])) / (std[c] ?? std[0]);
    }
  }
  return { dtype: port.dtype, shape: [1, ...port.shape.slice(1)], data };
}

/** Paint an input, its least value black and its largest white. */
function paint(canvas, tensor, { first, channels, width, height }) {
  const values = numbers(tensor);
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const picture = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      const from = channels === 1 ? 0 : c;
      const value = values[first ? from * width * height + i : i * channels + from];
      picture.data[4 * i + c] = (255 * (value - low)) / (high - low || 1);
    }
    picture.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}
