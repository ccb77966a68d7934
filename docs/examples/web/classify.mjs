// Classifies the image of a file that the browser can decode, with a model from another file.
import * as ort from './node_modules/onnxruntime-web/dist/ort.wasm.min.mjs';

// Where ort-wasm-simd-threaded.wasm and .mjs are served from; one thread needs no special headers.
ort.env.wasm.wasmPaths = new URL('./node_modules/onnxruntime-web/dist/', import.meta.url).href;
ort.env.wasm.numThreads = 1;

// Grey values of an image, scaled to 28 x 28, between 0 and 1.
async function read(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: 'none' });
  const context = new OffscreenCanvas(28, 28).getContext('2d');
  context.drawImage(bitmap, 0, 0, 28, 28);
  const { data } = context.getImageData(0, 0, 28, 28);
  return Float32Array.from({ length: 28 * 28 }, (_, i) => data[4 * i] / 255);
}

export async function classify(model, file) {
  const session = await ort.InferenceSession.create(new Uint8Array(await model.arrayBuffer()));
  try {
    const image = new ort.Tensor('float32', await read(file), [1, 1, 28, 28]);
    const { logits } = await session.run({ image });
    const found = Array.from(logits.data);
    return { class: found.indexOf(Math.max(...found)), logits: found };
  } finally {
    await session.release();
  }
}
