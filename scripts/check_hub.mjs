// Loads each variant of a folder that `onnxquant hub` wrote in transformers.js, and compares it with the float model.
//
//     npm install @huggingface/transformers      # once, in the current folder
//     node scripts/check_hub.mjs FOLDER [--chromium] [--model NAME] [--dtypes q8,q4]
//
// Prints a line for each dtype: time of loading in ms, lowest cosine of an output to fp32's. --chromium does it in a browser
// without a screen. Exit code 1: one does not load, or its cosine is below its bound.

const BOUNDS = { fp16: 0.995, q8: 0.995, int8: 0.995, uint8: 0.995, q4: 0.97, q4f16: 0.97, bnb4: 0.97, q2: 0.9 };
// Milliseconds that a browser has for one dtype.
const PATIENCE = 600000;
const TEXTS = [
  'A cat sits on the mat.', 'The weather is fine today, and the sea is calm.', 'Stocks fell by two percent in March.',
  'She plays the violin in an orchestra.', 'How do I install the package on a phone?', 'Water boils at one hundred degrees.',
];

function cosine(a, b) {
  let ab = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; ++i) { ab += a[i] * b[i]; aa += a[i] * a[i]; bb += b[i] * b[i]; }
  return ab / Math.sqrt(aa * bb);
}

// Inputs of a session without a tokenizer: the same for every variant, from a seed for each name.
function made(transformers, session) {
  const inputs = {};
  for (const { name, type, shape } of session.inputMetadata) {
    let seed = [...name].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 2147483648, 1);
    const random = () => ((seed = (seed * 1103515245 + 12345) % 2147483648) / 2147483648);
    const dims = shape.map((d, i) => (typeof d === 'number' && d > 0 ? d : i === 0 ? 1 : name === 'pixel_values' ? 224 : 16));
    const count = dims.reduce((a, b) => a * b, 1);
    const kinds = name.includes('type_ids') ? 2 : 100;
    const data = type === 'bool' ? new Uint8Array(count).fill(1) : type === 'int64' ? BigInt64Array.from({ length: count }, () => (name.includes('mask') ? 1n : BigInt(Math.floor(random() * kinds))))
      : Float32Array.from({ length: count }, () => random() + random() + random() - 1.5);
    inputs[name] = new transformers.Tensor(type, data, dims);
  }
  return inputs;
}

// Milliseconds that one variant takes to load, and its float outputs by name; in node and in a page.
async function run(transformers, folder, dtype, { model_file_name, tokenizer }) {
  const tokens = tokenizer ? (await transformers.AutoTokenizer.from_pretrained(folder))(TEXTS, { padding: true }) : null;
  const begin = performance.now();
  const model = await transformers.AutoModel.from_pretrained(folder, { dtype, model_file_name, device: globalThis.window ? 'wasm' : 'cpu' });
  const ms = performance.now() - begin;
  const session = Object.values(model.sessions)[0];
  const feeds = tokens ?? made(transformers, session);
  const outputs = await model.forward(Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]])));
  const values = Object.fromEntries(Object.entries(outputs).filter(([, t]) => t.type === 'float32').map(([n, t]) => [n, Float32Array.from(t.data)]));
  await model.dispose();
  return { ms, values };
}

const reason = (error) => String(error?.message ?? error).split('\n')[0].slice(0, 200);

// Prints a line for each dtype; returns how many do not load or are too far from fp32. ask(dtype) gives what run() gives.
async function check(dtypes, ask) {
  let expected, bad = 0;
  for (const dtype of ['fp32', ...dtypes]) {
    try {
      const { ms, values } = await ask(dtype);
      expected ??= values;
      const least = Math.min(...Object.entries(values).map(([name, data]) => cosine(data, expected[name])));
      const low = !(least >= (BOUNDS[dtype] ?? 0.9999));
      bad += low;
      console.log(`${dtype.padEnd(6)} ${ms.toFixed(0).padStart(6)} ms  cosine ${least.toFixed(5)}${low ? '  too low' : ''}`);
    } catch (error) {
      bad += 1;
      console.log(`${dtype.padEnd(6)} does not load: ${reason(error)}`);
      // There is nothing to compare the others with.
      if (!expected) return bad;
    }
  }
  return bad;
}

if (globalThis.window) {
  let answer;
  try {
    const { dtype, wish } = await (await fetch('/wish')).json();
    const transformers = await import('@huggingface/transformers');
    Object.assign(transformers.env, { allowLocalModels: true, allowRemoteModels: false, localModelPath: '/', useBrowserCache: false });
    Object.assign(transformers.env.backends.onnx.wasm, { wasmPaths: '/node_modules/onnxruntime-web/dist/', numThreads: 1 });
    const { ms, values } = await run(transformers, 'folder', dtype, wish);
    // As bits, since JSON has no NaN.
    answer = { ms, bits: Object.fromEntries(Object.entries(values).map(([name, data]) => [name, Array.from(new Int32Array(data.buffer))])) };
  } catch (error) {
    answer = { error: reason(error) };
  }
  await fetch('/done', { method: 'POST', body: JSON.stringify(answer) });
} else {
  const { createServer } = await import('node:http');
  const { spawn } = await import('node:child_process');
  const { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } = await import('node:fs');
  const { createRequire } = await import('node:module');
  const { tmpdir } = await import('node:os');
  const { basename, dirname, extname, join, resolve } = await import('node:path');
  const { fileURLToPath, pathToFileURL } = await import('node:url');
  const { parseArgs } = await import('node:util');

  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { chromium: { type: 'boolean' }, model: { type: 'string', default: 'model' }, dtypes: { type: 'string' } },
  });
  if (positionals.length !== 1) { console.error('usage: node check_hub.mjs FOLDER [--chromium] [--model NAME] [--dtypes q8,q4]'); process.exit(2); }
  const folder = resolve(positionals[0]);
  const suffixes = { _fp16: 'fp16', _quantized: 'q8', _int8: 'int8', _uint8: 'uint8', _q4: 'q4', _q4f16: 'q4f16', _bnb4: 'bnb4', _q2: 'q2' };
  const files = readdirSync(join(folder, 'onnx'));
  const present = Object.entries(suffixes).filter(([s]) => files.includes(`${values.model}${s}.onnx`)).map(([, dtype]) => dtype);
  const wish = {
    model_file_name: values.model === 'model' ? undefined : values.model,
    tokenizer: existsSync(join(folder, 'tokenizer.json')),
  };
  const entry = createRequire(join(process.cwd(), 'x.js')).resolve('@huggingface/transformers');
  const dtypes = values.dtypes ? values.dtypes.split(',') : present;
  let bad;
  if (values.chromium) {
    // Each has a browser of its own: what does not load leaves its build of onnxruntime-web unusable for the next.
    bad = await check(dtypes, (dtype) => inBrowser(entry.slice(0, entry.lastIndexOf('node_modules')), dtype));
  } else {
    const transformers = await import(pathToFileURL(join(dirname(entry), 'transformers.node.mjs')).href);
    Object.assign(transformers.env, { allowRemoteModels: false, localModelPath: dirname(folder) + '/' });
    bad = await check(dtypes, (dtype) => run(transformers, basename(folder), dtype, wish));
  }
  process.exit(bad ? 1 : 0);

  // What a new browser answers to one dtype.
  function inBrowser(packages, dtype) {
    const map = {
      '@huggingface/transformers': '/node_modules/@huggingface/transformers/dist/transformers.web.js',
      'onnxruntime-common': '/node_modules/onnxruntime-common/dist/esm/index.js',
      'onnxruntime-web/webgpu': '/node_modules/onnxruntime-web/dist/ort.webgpu.min.mjs',
    };
    const page = `<script type="importmap">${JSON.stringify({ imports: map })}</script><script type="module" src="/check.mjs"></script>`;
    const types = { '.mjs': 'text/javascript', '.js': 'text/javascript', '.json': 'application/json', '.wasm': 'application/wasm', '.html': 'text/html' };
    const roots = { '/folder/': folder, '/node_modules/': join(packages, 'node_modules') };
    return new Promise((done, fail) => {
      const profile = mkdtempSync(join(tmpdir(), 'check_hub-'));
      const server = createServer((request, response) => {
        const path = decodeURIComponent(new URL(request.url, 'http://x').pathname);
        const send = (type, body) => response.writeHead(200, { 'Content-Type': type, 'Content-Length': body.length }).end(request.method === 'HEAD' ? undefined : body);
        if (path === '/') return send('text/html', Buffer.from(page));
        if (path === '/wish') return send('application/json', Buffer.from(JSON.stringify({ dtype, wish })));
        if (path === '/check.mjs') return send('text/javascript', readFileSync(fileURLToPath(import.meta.url)));
        if (path === '/done') {
          let body = '';
          request.on('data', (part) => (body += part));
          request.on('end', () => {
            response.end();
            answer = JSON.parse(body);
            browser.kill();
          });
          return undefined;
        }
        const root = Object.keys(roots).find((start) => path.startsWith(start) && !path.includes('..'));
        const file = root && join(roots[root], path.slice(root.length));
        if (!file || !existsSync(file)) return response.writeHead(404).end();
        return send(types[extname(file)] ?? 'application/octet-stream', readFileSync(file));
      });
      let browser, answer = { error: `the browser ended, or gave no answer in ${PATIENCE / 1000} s` };
      server.listen(0, '127.0.0.1', () => {
        const flags = ['--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-dev-shm-usage', `--user-data-dir=${profile}`];
        browser = spawn('chromium', [...flags, `http://127.0.0.1:${server.address().port}/`], { stdio: 'ignore' });
        const late = setTimeout(() => browser.kill(), PATIENCE);
        browser.once('exit', () => {
          clearTimeout(late);
          server.close();
          try { rmSync(profile, { recursive: true, force: true, maxRetries: 5 }); } catch { /* a process of the browser still writes */ }
          if (answer.error) return fail(answer.error);
          const floats = Object.entries(answer.bits).map(([name, bits]) => [name, new Float32Array(Int32Array.from(bits).buffer)]);
          return done({ ms: answer.ms, values: Object.fromEntries(floats) });
        });
      });
    });
  }
}
