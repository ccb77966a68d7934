// runner.py for onnxruntime-web's builds and onnxruntime-node: node runner.mjs SPEC.json BUNDLE.mjs, or ... SPEC.json node FOLDER
// A page may import run() too; it fetches the files.
const least = 4, most = 101, limit = 1000, longEnough = 5;
const rounds = 3, enough = 0.97, longest = 15000, loads = 11;

function values({ type, shape }) {
  const count = shape.reduce((a, b) => a * b, 1);
  if (type === 'float32') return Float32Array.from({ length: count }, (_, i) => Math.sin(i));
  if (type === 'int64') return BigInt64Array.from({ length: count }, (_, i) => BigInt(i % 2));
  return (type === 'bool' ? Uint8Array : Int32Array).from({ length: count }, (_, i) => (type === 'bool' ? 1 : i % 2));
}

// Processor time where there is one.
const clock = () => (typeof process === 'undefined' ? performance.now() : process.cpuUsage().user / 1000);

async function milliseconds(session, feeds, calls) {
  const start = clock();
  for (let i = 0; i < calls; i++) await session.run(feeds);
  return clock() - start;
}

// Ratios of one pair of sessions; who runs first alternates.
async function part(session, original, feeds) {
  let calls = 1;
  while ((await milliseconds(original, feeds, calls)) < longEnough) calls *= 2;
  await milliseconds(session, feeds, calls);
  const ratios = [], start = performance.now();
  while (ratios.length < least || (ratios.length < most && performance.now() - start < limit)) {
    const first = await milliseconds(original, feeds, calls);
    const ours = (await milliseconds(session, feeds, calls)) + (await milliseconds(session, feeds, calls));
    ratios.push((first + (await milliseconds(original, feeds, calls))) / ours);
  }
  return ratios;
}

// The median, and the bounds of its 95% interval.
function interval(ratios) {
  const ordered = ratios.toSorted((a, b) => a - b), half = 0.98 * Math.sqrt(ratios.length), middle = ratios.length / 2;
  const at = (place) => ordered[Math.min(ordered.length - 1, Math.max(0, Math.floor(place)))];
  return [at(middle), at(middle - half), at(middle + half)];
}

// The speed of a file as a multiple of the original's; sessions are made anew for each part of the runs.
async function speed(open, path, original, feeds) {
  const ratios = [], start = performance.now();
  for (let round = 1; ; round++) {
    const sessions = {};
    for (const file of round % 2 ? [path, original] : [original, path]) sessions[file] = await open(file);
    ratios.push(...(await part(sessions[path], sessions[original], feeds)));
    for (const session of Object.values(sessions)) await session.release();
    const [middle, low, high] = interval(ratios), tells = enough < low || high < enough;
    if (round >= rounds && (tells || performance.now() - start > longest)) return [middle, low, high];
  }
}

// The time that a session takes to be made, as a part of the original's: the median of sessions made in turn.
async function loadTime(open, path, original) {
  const ratios = [];
  for (let i = 0; i < loads; i++) {
    const spent = [];
    for (const file of [path, original]) {
      const start = clock(), session = await open(file);
      spent.push(clock() - start);
      await session.release();
    }
    ratios.push(spent[0] / spent[1]);
  }
  return interval(ratios)[0];
}

// The largest absolute difference of outputs.
async function difference(open, path, original, feeds) {
  const both = [];
  for (const file of [path, original]) {
    const session = await open(file), outputs = await session.run(feeds);
    both.push(session.outputNames.map((name) => Array.from(outputs[name].data, Number)));
    await session.release();
  }
  return both[0].flatMap((values, k) => values.map((value, i) => Math.abs(value - both[1][k][i])))
    .reduce((a, b) => (a > b ? a : b), 0);
}

// Results by file; each is told as soon as it is there.
export async function run(ort, open, files, tell = () => {}) {
  const results = {};
  for (const { key, path, inputs, original, is_twin: isTwin } of files) {
    let session;
    try {
      const feeds = Object.fromEntries(inputs.map((i) => [i.name, new ort.Tensor(i.type, values(i), i.shape)]));
      session = await open(path);
      await session.run(feeds);
      results[key] = { speed: original ? await speed(open, path, original, feeds) : null };
      if (isTwin) {
        results[key].load = await loadTime(open, path, original);
        results[key].difference = await difference(open, path, original, feeds);
      }
    } catch (error) {
      results[key] = { error: String(error.message ?? error).split('\n')[0].slice(0, 300) };
    } finally {
      await session?.release();
    }
    await tell(results);
  }
  return results;
}

if (typeof process !== 'undefined' && process.argv[2]) {
  const { readFileSync } = await import('node:fs');
  const { pathToFileURL } = await import('node:url');
  const { createRequire } = await import('node:module');
  const [spec, bundle, folder] = process.argv.slice(2);
  const isNode = bundle === 'node';
  const ort = isNode ? createRequire(`${folder}/`)('onnxruntime-node') : await import(pathToFileURL(bundle));
  ort.env.logLevel = 'fatal';
  if (!isNode) {
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = new URL('.', pathToFileURL(bundle)).href;
  }
  const open = isNode
    ? (path) => ort.InferenceSession.create(path, { intraOpNumThreads: 1 })
    : (path) => ort.InferenceSession.create(new Uint8Array(readFileSync(path)), { executionProviders: ['wasm'] });
  const results = await run(ort, open, JSON.parse(readFileSync(spec)));
  console.log(JSON.stringify({ version: ort.env.versions.node ?? ort.env.versions.web ?? ort.env.versions.common, results }));
  process.exit(0);
}
