"use strict";

// Pictures of the panels as they are laid out: one pass as PNG, all of them as an animated GIF.

const MARGIN = 8;
// Hundredths of a second that a pass of an animation is shown, and the last one.
const DELAY = 60;
const LAST_DELAY = 300;
// Colors of an animation, transparency included: a power of two.
const NUM_COLORS = 64;
const TRANSPARENT = 0;

/** Offer bytes as a file. */
function offer(blob, name) {
  const link = make("a", { download: name });
  link.href = URL.createObjectURL(blob);
  link.click();
  URL.revokeObjectURL(link.href);
}

function savePng() {
  drawPicture(2).toBlob((blob) => offer(blob, "decoding.png"));
}

/** Return a canvas with the prompt and the panels; `scale` is the number of its pixels in one of the page. */
function drawPicture(scale) {
  const parts = [byId("prompt").parentElement, byId("panels")];
  const boxes = parts.map((part) => part.getBoundingClientRect());
  const canvas = make("canvas");
  canvas.width = Math.ceil((Math.max(...boxes.map((box) => box.width)) + 2 * MARGIN) * scale);
  canvas.height = Math.ceil((boxes.reduce((sum, box) => sum + box.height + MARGIN, MARGIN)) * scale);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = getComputedStyle(document.body).backgroundColor;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.scale(scale, scale);
  let top = MARGIN;
  parts.forEach((part, index) => {
    context.save();
    context.translate(MARGIN - boxes[index].left, top - boxes[index].top);
    for (const element of part.querySelectorAll(".panel, .cell")) drawBox(context, element);
    drawLines(context, part);
    for (const path of part.querySelectorAll(".tokens path")) drawArc(context, path);
    for (const shape of part.querySelectorAll(".map rect")) drawShape(context, shape);
    context.restore();
    top += boxes[index].height + MARGIN;
  });
  return canvas;
}

/** Draw the background and the border of an element where it is. */
function drawBox(context, element) {
  const box = element.getBoundingClientRect();
  const style = getComputedStyle(element);
  const width = parseFloat(style.borderTopWidth);
  context.beginPath();
  context.roundRect(box.left + width / 2, box.top + width / 2, box.width - width, box.height - width, 4);
  context.fillStyle = style.backgroundColor;
  context.fill();
  if (width === 0) return;
  context.strokeStyle = style.borderTopColor;
  context.lineWidth = width;
  context.setLineDash(style.borderTopStyle === "dashed" ? [3, 3] : []);
  context.stroke();
}

/** Draw all texts in an element where they are, line by line. */
function drawLines(context, element) {
  const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  context.textBaseline = "middle";
  context.textAlign = "left";
  while (texts.nextNode()) {
    const node = texts.currentNode;
    const parent = node.parentElement;
    // Names of shapes are not shown.
    if (parent.closest("title")) continue;
    const style = getComputedStyle(parent);
    const isSvg = parent instanceof SVGElement;
    const size = parseFloat(style.fontSize) * (isSvg ? parent.getScreenCTM().a : 1);
    context.fillStyle = isSvg ? style.fill : style.color;
    context.font = `${style.fontStyle} ${style.fontWeight} ${size}px ${style.fontFamily}`;
    const isCell = parent.classList.contains("cell");
    const limit = isCell ? parent.getBoundingClientRect().right - parseFloat(style.paddingRight) : Infinity;
    for (const { text, left, middle } of linesOf(node, limit)) context.fillText(text, left, middle);
  }
}

/** Return the lines of a text, and where they are; what is right of a limit is cut off. */
function linesOf(node, limit) {
  const lines = [];
  const range = document.createRange();
  let place = 0;
  for (const character of node.data) {
    range.setStart(node, place);
    place += character.length;
    range.setEnd(node, place);
    const box = range.getClientRects()[0];
    if (box === undefined || box.width === 0) continue;
    const line = lines[lines.length - 1];
    const middle = (box.top + box.bottom) / 2;
    if (line !== undefined && Math.abs(line.middle - middle) < 2 && box.left >= line.left) {
      if (box.right <= limit + 1) line.text += character;
      else if (!line.text.endsWith("\u2026")) line.text = `${line.text.slice(0, -1)}\u2026`;
    } else {
      lines.push({ text: character, left: box.left, middle });
    }
  }
  return lines;
}

/** Draw an arc where it is. */
function drawArc(context, path) {
  const box = path.ownerSVGElement.getBoundingClientRect();
  const style = getComputedStyle(path);
  context.save();
  context.translate(box.left, box.top);
  context.setLineDash([]);
  context.strokeStyle = style.stroke;
  context.globalAlpha = Number(style.strokeOpacity);
  context.lineWidth = parseFloat(style.strokeWidth);
  context.stroke(new Path2D(path.getAttribute("d")));
  context.restore();
}

/** Draw a square of a heat map, or its frame, where it is. */
function drawShape(context, shape) {
  const box = shape.getBoundingClientRect();
  const style = getComputedStyle(shape);
  context.save();
  context.setLineDash([]);
  context.strokeStyle = style.stroke;
  context.fillStyle = style.fill;
  if (style.fill === "none") {
    context.strokeRect(box.left, box.top, box.width, box.height);
  } else {
    context.globalAlpha = Number(style.fillOpacity);
    context.fillRect(box.left, box.top, box.width, box.height);
  }
  context.restore();
}

// ---- An animation ----

/** Show every frame in turn and save them as an animation. */
async function saveGif(player) {
  const shown = player.frame;
  const button = byId("gif");
  button.disabled = true;
  try {
    offer(await animation(player), "decoding.gif");
  } finally {
    button.disabled = false;
    button.textContent = "Save as GIF";
    player.go(shown);
  }
}

/** Return an animation of all frames as a file; their size and their colors are found first. */
async function animation(player) {
  const count = player.last + 1;
  const colors = new Colors();
  const size = { width: 0, height: 0 };
  const draw = async (frame, step) => {
    player.go(frame);
    byId("gif").textContent = `${Math.round((100 * step) / (2 * count))} %`;
    await new Promise((done) => setTimeout(done));
    return drawPicture(1);
  };
  for (let frame = 0; frame < count; frame += 1) {
    const canvas = await draw(frame, frame);
    size.width = Math.max(size.width, canvas.width);
    size.height = Math.max(size.height, canvas.height);
    colors.count(pixelsOf(canvas, canvas));
  }
  const gif = new Gif(size.width, size.height, colors.palette());
  for (let frame = 0; frame < count; frame += 1) {
    const pixels = pixelsOf(await draw(frame, count + frame), size);
    gif.add(colors.indices(pixels), frame === count - 1 ? LAST_DELAY : DELAY);
  }
  return gif.blob();
}

/** Return the colors of a canvas in a larger one of the same background, a number of 32 bits for each. */
function pixelsOf(canvas, { width, height }) {
  const larger = make("canvas");
  larger.width = width;
  larger.height = height;
  const context = larger.getContext("2d", { willReadFrequently: true });
  context.fillStyle = getComputedStyle(document.body).backgroundColor;
  context.fillRect(0, 0, width, height);
  context.drawImage(canvas, 0, 0);
  return new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
}

/** Finds the most frequent colors and gives each color the nearest of them; most pixels are like the one before. */
class Colors {
  constructor() {
    this.counts = new Map();
    this.nearest = new Map();
  }

  /** Return red, green and blue, on machines whose numbers begin with their lowest byte, as those of browsers do. */
  static parts(color) {
    return [color & 255, (color >> 8) & 255, (color >> 16) & 255];
  }

  count(pixels) {
    let start = 0;
    for (let place = 1; place <= pixels.length; place += 1) {
      if (place < pixels.length && pixels[place] === pixels[start]) continue;
      this.counts.set(pixels[start], (this.counts.get(pixels[start]) ?? 0) + place - start);
      start = place;
    }
  }

  /** Return the colors as triples of bytes; the first one stands for transparency. */
  palette() {
    const sorted = [...this.counts].sort(([, mine], [, other]) => other - mine);
    this.colors = sorted.slice(0, NUM_COLORS - 1).map(([color]) => Colors.parts(color));
    return [[0, 0, 0], ...this.colors];
  }

  indices(pixels) {
    const indices = new Uint8Array(pixels.length);
    for (let place = 0; place < indices.length; place += 1) {
      if (place > 0 && pixels[place] === pixels[place - 1]) {
        indices[place] = indices[place - 1];
        continue;
      }
      let index = this.nearest.get(pixels[place]);
      if (index === undefined) {
        index = this.find(Colors.parts(pixels[place])) + 1;
        this.nearest.set(pixels[place], index);
      }
      indices[place] = index;
    }
    return indices;
  }

  find(parts) {
    const distances = this.colors.map((color) =>
      color.reduce((sum, value, part) => sum + (value - parts[part]) ** 2, 0),
    );
    return distances.indexOf(Math.min(...distances));
  }
}

/** Writes an animation in the form GIF89a; of each frame, what differs from the one before it. */
class Gif {
  constructor(width, height, palette) {
    this.width = width;
    this.height = height;
    this.before = null;
    this.bits = Math.log2(NUM_COLORS);
    this.parts = [];
    this.text("GIF89a");
    this.numbers(width, height);
    this.raw(0xf0 | (this.bits - 1), 0, 0);
    for (let index = 0; index < NUM_COLORS; index += 1) this.raw(...(palette[index] ?? [0, 0, 0]));
    // Played again and again.
    this.raw(0x21, 0xff, 11);
    this.text("NETSCAPE2.0");
    this.raw(3, 1, 0, 0, 0);
  }

  raw(...bytes) {
    this.parts.push(Uint8Array.from(bytes));
  }

  text(text) {
    this.raw(...[...text].map((character) => character.charCodeAt(0)));
  }

  numbers(...numbers) {
    this.raw(...numbers.flatMap((number) => [number & 255, number >> 8]));
  }

  add(indices, delay) {
    const { left, top, width, height } = this.changedPart(indices);
    const part = new Uint8Array(width * height);
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const place = (top + y) * this.width + left + x;
        part[y * width + x] = this.before?.[place] === indices[place] ? TRANSPARENT : indices[place];
      }
    }
    // The frame stays when the next one is drawn over it, and one color is transparent.
    this.raw(0x21, 0xf9, 4, 0b101);
    this.numbers(delay);
    this.raw(TRANSPARENT, 0, 0x2c);
    this.numbers(left, top, width, height);
    this.raw(0, this.bits);
    const packed = compressed(part, this.bits);
    for (let place = 0; place < packed.length; place += 255) {
      const block = packed.subarray(place, place + 255);
      this.raw(block.length);
      this.parts.push(block);
    }
    this.raw(0);
    this.before = indices;
  }

  /** Return the smallest box around what differs from the frame before; one pixel if nothing does. */
  changedPart(indices) {
    if (this.before === null) return { left: 0, top: 0, width: this.width, height: this.height };
    let [left, top, right, bottom] = [this.width, this.height, -1, -1];
    for (let y = 0; y < this.height; y += 1) {
      for (let x = 0; x < this.width; x += 1) {
        const place = y * this.width + x;
        if (indices[place] === this.before[place]) continue;
        left = Math.min(left, x);
        right = Math.max(right, x);
        top = Math.min(top, y);
        bottom = y;
      }
    }
    if (right < 0) return { left: 0, top: 0, width: 1, height: 1 };
    return { left, top, width: right - left + 1, height: bottom - top + 1 };
  }

  blob() {
    return new Blob([...this.parts, Uint8Array.of(0x3b)], { type: "image/gif" });
  }
}

/** Return indices of `bits` bits as GIF's variant of LZW has them (GIF89a specification, appendix F). */
function compressed(indices, bits) {
  const clear = 1 << bits;
  const found = [];
  let codes = new Map();
  let next = clear + 2;
  let width = bits + 1;
  let held = 0;
  let numHeld = 0;
  const write = (code) => {
    held |= code << numHeld;
    numHeld += width;
    while (numHeld >= 8) {
      found.push(held & 255);
      held >>>= 8;
      numHeld -= 8;
    }
  };
  write(clear);
  let prefix = indices[0];
  for (let place = 1; place < indices.length; place += 1) {
    const key = (prefix << 8) | indices[place];
    const known = codes.get(key);
    if (known !== undefined) {
      prefix = known;
      continue;
    }
    write(prefix);
    if (next < 4096) {
      codes.set(key, next);
      if (next === 1 << width) width += 1;
      next += 1;
    } else {
      write(clear);
      codes = new Map();
      next = clear + 2;
      width = bits + 1;
    }
    prefix = indices[place];
  }
  write(prefix);
  write(clear + 1);
  if (numHeld > 0) found.push(held & 255);
  return Uint8Array.from(found);
}
