// Reads images and runs the model, beside the page, so that the page always answers. What stands before this text is ONNX
// Runtime, as `ort`. Nothing here asks a network for anything, and the page's policy forbids it.

let session = null;
let about = null;

self.onmessage = async ({ data }) => {
  try {
    if (data.kind === "start") await start(data);
    else self.postMessage({ kind: "done", id: data.id, result: await inspect(data.file, data.drawn) });
  } catch (error) {
    const reason = String((error && error.message) || error);
    if (data.kind === "start") self.postMessage({ kind: "broken", reason });
    else self.postMessage({ kind: "refused", id: data.id, reason });
  }
};

async function start(data) {
  about = data.about;
  ort.env.wasm.numThreads = 1;  // more need a server that isolates the page
  ort.env.wasm.wasmBinary = data.wasm;
  ort.env.logLevel = "error";
  session = await ort.InferenceSession.create(new Uint8Array(data.model), { executionProviders: ["wasm"] });
  self.postMessage({ kind: "ready" });
}

async function inspect(file, drawn) {
  const image = await pixelsOf(file);
  const [height, width] = about.input.shape;
  const started = performance.now();
  const found = await session.run({ image: new ort.Tensor("uint8", image.rgb, [height, width, 3]) });
  const result = {
    score: found.score.data[0],
    p_value: found.p_value.data[0],
    verdict: found.verdict.data[0],
    measures: found.image_check ? Array.from(found.image_check.data) : [],
    anomalous: count(found.mask.data),
    milliseconds: performance.now() - started,
  };
  if (drawn) Object.assign(result, await draw(image, found.anomaly_map.data, found.mask.data));
  return result;
}

const count = (mask) => mask.reduce((sum, value) => sum + (value > 0 ? 1 : 0), 0);

// The numbers that are in the file: no colour management, no resizing; only turned as EXIF says, as patchbank does.
async function pixelsOf(file) {
  await checkFormat(file);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
      imageOrientation: "from-image",
    });
  } catch {
    throw new Error("the browser cannot decode it: the file is damaged, or of a kind that it does not know");
  }
  const [height, width] = about.input.shape;
  if (bitmap.width !== width || bitmap.height !== height) {
    const got = `${bitmap.width} × ${bitmap.height}`;
    bitmap.close();
    throw new Error(`it has ${got} pixels, and this page inspects ${width} × ${height}: export a page for that size`);
  }
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const rgb = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    if (rgba[from + 3] !== 255) {
      throw new Error("it has transparent pixels, whose colours a browser does not give away: save it without alpha");
    }
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return { rgb, canvas, height, width };
}

async function checkFormat(file) {
  if (file.size > 1 << 29) throw new Error("it is larger than 512 MB");
  const bytes = new Uint8Array(await file.slice(0, 1 << 20).arrayBuffer());
  const starts = (...expected) => expected.every((value, place) => bytes[place] === value);
  if (starts(0x89, 0x50, 0x4e, 0x47)) {
    if (bytes[24] === 16) throw new Error("it has 16 bits a channel, which a browser reduces to 8: inspect it with patchbank");
  } else if (starts(0xff, 0xd8, 0xff)) {
    if (jpegChannels(bytes) === 4) throw new Error("it is a JPEG in four colours (CMYK): save it as RGB");
  } else if (!starts(0x42, 0x4d) && !(starts(0x52, 0x49, 0x46, 0x46) && bytes[8] === 0x57 && bytes[9] === 0x45)) {
    throw new Error("expected a PNG, JPEG, BMP or WebP file");
  }
}

// As the frame's header says; 0 where there is none in what was read.
function jpegChannels(bytes) {
  for (let at = 2; at + 9 < bytes.length && bytes[at] === 0xff; ) {
    const marker = bytes[at + 1];
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) return bytes[at + 9];
    at += 2 + 256 * bytes[at + 2] + bytes[at + 3];
  }
  return 0;
}

// The picture and, on a layer of its own, the heat map with the mask's outline: small files for the page.
async function draw({ canvas, height, width }, map, mask) {
  const layer = new OffscreenCanvas(width, height);
  const context = layer.getContext("2d");
  const image = context.createImageData(width, height);
  const top = about.pixel_threshold ? 2 * about.pixel_threshold : Math.max(1e-30, map.reduce((a, b) => Math.max(a, b), 0));
  const line = Math.max(1, Math.round(Math.min(height, width) / 300));
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x] > 0;
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const level = Math.max(0, Math.min(255, Math.floor((255 * map[at]) / top + 0.5)));
      image.data.set(about.heat[level], 4 * at);
      const own = mask[at] > 0;
      for (const [dx, dy] of [[line, 0], [-line, 0], [0, line], [0, -line]]) {
        if (inside(x + dx, y + dy) !== own) {
          image.data.set(own ? [255, 255, 255, 255] : [25, 25, 25, 200], 4 * at);
          break;
        }
      }
    }
  }
  context.putImageData(image, 0, 0);
  return { picture: await small(canvas, "image/jpeg"), heat: await small(layer, "image/png") };
}

async function small(canvas, type) {
  const share = Math.min(1, 1200 / Math.max(canvas.width, canvas.height));
  if (share === 1) return canvas.convertToBlob({ type, quality: 0.9 });
  const smaller = new OffscreenCanvas(Math.max(1, Math.round(share * canvas.width)), Math.max(1, Math.round(share * canvas.height)));
  smaller.getContext("2d").drawImage(canvas, 0, 0, smaller.width, smaller.height);
  return smaller.convertToBlob({ type, quality: 0.9 });
}
