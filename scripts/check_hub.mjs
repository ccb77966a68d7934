// Loads each variant of a folder that `onnxquant hub` wrote in transformers.js, and compares it with the float model.
//
//     npm install @huggingface/transformers      # once, in the current folder
//     node scripts/check_hub.mjs FOLDER [--chromium] [--model NAME] [--dtypes q8,q4]
//
// Prints a line for each dtype: time of loading in ms, lowest cosine of an output to fp32's. --chromium does it in a browser
// without a screen. Exit code 1: one does not load, or its cosine is below its bound.

const BOUNDS = { fp16: 0.995, q8: 0.995, int8: 0.995, uint8: 0.995, q4: 0.97, q4f16: 0.97, bnb4: 0.97, q2: 0.9 };
const TEXTS = [
  'A cat sits on the mat.', 'The weather is fine today, and the sea is calm.', 'Stocks fell by two percent in March.',
  'She plays the violin in an orchestra.', 'How do I install the package on a phone?', 'Water boils at one hundred degrees.',
];

function cosine(a, b) {
  let ab = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; ++i) { ab += a[i] * b[i]; aa += a[i] * a[i]; bb += b[i] * b[i]; }
  return ab / Math.sqrt(aa * bb);
}

// Inputs of a session without a tokenizer: the same for every variant, from a seed.
function made(transformers, session) {
  let seed = 1;
  const random = () => ((seed = (seed * 1103515245 + 12345) % 2147483648) / 2147483648);
  const inputs = {};
  for (const { name, type, shape } of session.inputMetadata) {
    const dims = shape.map((d, i) => (typeof d === 'number' && d > 0 ? d : i === 0 ? 1 : name === 'pixel_values' ? 224 : 16));
    const count = dims.reduce((a, b) => a * b, 1);
    const data = type === 'bool' ? new Uint8Array(count).fill(1) : type === 'int64' ? BigInt64Array.from({ length: count }, () => (name.includes('mask') ? 1n : BigInt(Math.floor(random() * 100))))
      : Float32Array.from({ length: count }, () => random() + random() + random() - 1.5);
    inputs[name] = new transformers.Tensor(type, data, dims);
  }
  return inputs;
}

// One line for each dtype; the function runs in node and in the browser.
async function check(transformers, folder, { dtypes, model_file_name, tokenizer }, say) {
  const tokens = tokenizer ? (await transformers.AutoTokenizer.from_pretrained(folder))(TEXTS, { padding: true }) : null;
  let expected = null, feeds = tokens, bad = 0;
  for (const dtype of ['fp32', ...dtypes]) {
    try {
      const begin = performance.now();
      const model = await transformers.AutoModel.from_pretrained(folder, { dtype, model_file_name, device: globalThis.window ? 'wasm' : 'cpu' });
      const ms = performance.now() - begin;
      const session = Object.values(model.sessions)[0];
      feeds ??= made(transformers, session);
      const inputs = Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]]));
      const outputs = await model.forward(inputs);
      const values = Object.fromEntries(Object.entries(outputs).filter(([, t]) => t.type === 'float32').map(([n, t]) => [n, Float32Array.from(t.data)]));
      expected ??= values;
      const least = Math.min(...Object.entries(values).map(([name, data]) => cosine(data, expected[name])));
      const low = !(least >= (BOUNDS[dtype] ?? 0.9999));
      bad += low;
      say(`${dtype.padEnd(6)} ${ms.toFixed(0).padStart(6)} ms  cosine ${least.toFixed(5)}${low ? '  too low' : ''}`);
      await model.dispose();
    } catch (error) {
      bad += 1;
      say(`${dtype.padEnd(6)} does not load: ${String(error?.message ?? error).split('\n')[0].slice(0, 200)}`);
    }
  }
  return bad;
}

if (globalThis.window) {
  const { wish } = await (await fetch('/wish')).json();
  const lines = [];
  let bad = 1;
  try {
    const transformers = await import('@huggingface/transformers');
    Object.assign(transformers.env, { allowLocalModels: true, allowRemoteModels: false, localModelPath: '/', useBrowserCache: false });
    Object.assign(transformers.env.backends.onnx.wasm, { wasmPaths: '/node_modules/onnxruntime-web/dist/', numThreads: 1 });
    bad = await check(transformers, 'folder', wish, (line) => lines.push(line));
  } catch (error) {
    lines.push(String(error?.stack ?? error));
  }
  await fetch('/done', { method: 'POST', body: JSON.stringify({ lines, bad }) });
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
    dtypes: values.dtypes ? values.dtypes.split(',') : present,
    model_file_name: values.model === 'model' ? undefined : values.model,
    tokenizer: existsSync(join(folder, 'tokenizer.json')),
  };
  const entry = createRequire(join(process.cwd(), 'x.js')).resolve('@huggingface/transformers');
  let bad;
  if (values.chromium) {
    bad = await inBrowser(entry.slice(0, entry.lastIndexOf('node_modules')));
  } else {
    const transformers = await import(pathToFileURL(join(dirname(entry), 'transformers.node.mjs')).href);
    Object.assign(transformers.env, { allowRemoteModels: false, localModelPath: dirname(folder) + '/' });
    bad = await check(transformers, basename(folder), wish, console.log);
  }
  process.exit(bad ? 1 : 0);

  function inBrowser(packages) {
    const map = {
      '@huggingface/transformers': '/node_modules/@huggingface/transformers/dist/transformers.web.js',
      'onnxruntime-common': '/node_modules/onnxruntime-common/dist/esm/index.js',
      'onnxruntime-web/webgpu': '/node_modules/onnxruntime-web/dist/ort.webgpu.min.mjs',
    };
    const page = `<script type="importmap">${JSON.stringify({ imports: map })}</script><script type="module" src="/check.mjs"></script>`;
    const types = { '.mjs': 'text/javascript', '.js': 'text/javascript', '.json': 'application/json', '.wasm': 'application/wasm', '.html': 'text/html' };
    const roots = { '/folder/': folder, '/node_modules/': join(packages, 'node_modules') };
    return new Promise((done) => {
      const profile = mkdtempSync(join(tmpdir(), 'check_hub-'));
      const server = createServer((request, response) => {
        const path = decodeURIComponent(new URL(request.url, 'http://x').pathname);
        const send = (type, body) => response.writeHead(200, { 'Content-Type': type, 'Content-Length': body.length }).end(request.method === 'HEAD' ? undefined : body);
        if (path === '/') return send('text/html', Buffer.from(page));
        if (path === '/wish') return send('application/json', Buffer.from(JSON.stringify({ wish })));
        if (path === '/check.mjs') return send('text/javascript', readFileSync(fileURLToPath(import.meta.url)));
        if (path === '/done') {
          let body = '';
          request.on('data', (part) => (body += part));
          request.on('end', () => {
            response.end();
            const result = JSON.parse(body);
            result.lines.forEach((line) => console.log(line));
            browser.once('exit', () => {
              server.close();
              try { rmSync(profile, { recursive: true, force: true, maxRetries: 5 }); } catch { /* a process of the browser still writes */ }
              done(result.bad);
            });
            browser.kill();
          });
          return undefined;
        }
        const root = Object.keys(roots).find((start) => path.startsWith(start) && !path.includes('..'));
        const file = root && join(roots[root], path.slice(root.length));
        if (!file || !existsSync(file)) return response.writeHead(404).end();
        return send(types[extname(file)] ?? 'application/octet-stream', readFileSync(file));
      });
      let browser;
      server.listen(0, '127.0.0.1', () => {
        const flags = ['--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-dev-shm-usage', `--user-data-dir=${profile}`];
        browser = spawn('chromium', [...flags, `http://127.0.0.1:${server.address().port}/`], { stdio: 'ignore' });
      });
    });
  }
}
