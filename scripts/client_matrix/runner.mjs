// runner.py for onnxruntime-web's builds and onnxruntime-node: node runner.mjs SPEC.json BUNDLE.mjs, or ... SPEC.json node FOLDER
// A page may import run() too; it fetches the files.
const least = 7, most = 401, limit = 8000, longEnough = 5;

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

// Results by file; each is told as soon as it is there.
export async function run(ort, open, files, tell = () => {}) {
  const results = {};
  for (const { key, path, inputs, original } of files) {
    const sessions = [];
    try {
      const feeds = Object.fromEntries(inputs.map((i) => [i.name, new ort.Tensor(i.type, values(i), i.shape)]));
      sessions.push(await open(path));
      await sessions[0].run(feeds);
      results[key] = { speed: null };
      if (original) {
        sessions.push(await open(original));
        let calls = 1;
        while ((await milliseconds(sessions[1], feeds, calls)) < longEnough) calls *= 2;
        await milliseconds(sessions[0], feeds, calls);
        const ratios = [], start = performance.now();
        while (ratios.length < least || (ratios.length < most && performance.now() - start < limit)) {
          const float = await milliseconds(sessions[1], feeds, calls);
          ratios.push(float / (await milliseconds(sessions[0], feeds, calls)));
        }
        results[key] = { speed: ratios.sort((a, b) => a - b)[ratios.length >> 1] };
      }
    } catch (error) {
      results[key] = { error: String(error.message ?? error).split('\n')[0].slice(0, 300) };
    } finally {
      for (const session of sessions) await session.release();
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
