// runner.py for onnxruntime-web: node runner.mjs SPEC.json .../onnxruntime-web/dist/ort.node.min.mjs
// Node loads the same WebAssembly file as a browser. No graph is written there, and no library loaded.
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [spec, runtime] = process.argv.slice(2);
const ort = await import(pathToFileURL(runtime));
ort.env.wasm.numThreads = 1;
ort.env.logLevel = 'fatal';
const rounds = 11;
const arrays = { float32: Float32Array, int64: BigInt64Array };

function open(path) {
  return ort.InferenceSession.create(new Uint8Array(readFileSync(path)), { executionProviders: ['wasm'] });
}

async function milliseconds(session, feed) {
  const start = performance.now();
  await session.run(feed);
  return performance.now() - start;
}

async function measure({ path, original, feed, input }) {
  const bytes = new Uint8Array(readFileSync(feed)).buffer;
  const values = { [input.name]: new ort.Tensor(input.type, new arrays[input.type](bytes), input.shape) };
  const sessions = [];
  try {
    for (const file of [original, path]) sessions.push(await open(file));
    const outputs = [];
    for (const session of sessions) outputs.push(Object.values(await session.run(values))[0].data);
    const [expected, found] = outputs;
    let signal = 0, noise = 1e-30;
    expected.forEach((y, i) => { signal += y * y; noise += (found[i] - y) ** 2; });
    const ratios = [];
    for (let i = 0; i < rounds; i++) {
      ratios.push((await milliseconds(sessions[1], values)) / (await milliseconds(sessions[0], values)));
    }
    return { sqnr: 10 * Math.log10(signal / noise), ratio: ratios.sort((a, b) => a - b)[rounds >> 1] };
  } catch (error) {
    return { error: String(error.message ?? error).split('\n')[0] };
  } finally {
    for (const session of sessions) await session.release();
  }
}

const out = {};
for (const one of JSON.parse(readFileSync(spec)).cases) out[one.key] = await measure(one);
console.log(JSON.stringify({ cases: out }));
