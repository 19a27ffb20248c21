'use strict';
// Reads /api every two seconds and draws it. Text from jobs enters the page as text only, never as markup.

const PERIOD_MS = 2000;
const ENDED = new Set(['SUCCEEDED', 'FAILED', 'CANCELLED']);
// Curves: title, the series in it and how values are written (default: number). A series a job does not have is left out; so is a curve without any.
const CURVES = [
  ['Loss', ['loss', 'eval_loss']],
  ['Reward', ['reward', 'rewards/margins', 'rewards/chosen', 'rewards/rejected']],
  ['KL and entropy', ['kl', 'entropy']],
  ['Token accuracy', ['mean_token_accuracy', 'eval_mean_token_accuracy']],
  ['Gradient norm', ['grad_norm']],
  ['Learning rate', ['learning_rate']],
  ['Tokens per second', ['tokens_per_second']],
  ['Memory peak', ['memory_peak_bytes'], bytes],
];
const COMPONENTS = [
  ['weights_bytes', 'weights'], ['adapter_bytes', 'adapter'], ['gradient_bytes', 'gradients'],
  ['optimizer_bytes', 'optimizer'], ['activation_bytes', 'activations'], ['logits_bytes', 'logits'],
  ['kv_cache_bytes', 'KV cache'], ['runtime_bytes', 'runtime'],
];

const byId = (id) => document.getElementById(id);

function element(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function svgElement(tag, attributes) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

async function get(path) {
  const answer = await fetch(path);
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.error || answer.statusText), {code: answer.status});
  return body;
}

const shortName = (name) => (name || '').replace(/^[^/]*\//, '');
const method = (spec) => ['sft', 'dpo', 'kto', 'grpo'].find((m) => spec && m in spec) || '';
const seconds = (duration) => parseFloat(duration || '0');

function bytes(n) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let i = 0;
  n = Number(n || 0);
  while (n >= 1000 && i < units.length - 1) { n /= 1000; ++i; }
  return (i === 0 ? n.toFixed(0) : n.toFixed(2)) + ' ' + units[i];
}

function duration(s) {
  if (!(s >= 0)) return '';
  if (s < 60) return s.toFixed(0) + ' s';
  if (s < 3600) return Math.floor(s / 60) + ' min ' + Math.floor(s % 60) + ' s';
  return Math.floor(s / 3600) + ' h ' + Math.floor(s % 3600 / 60) + ' min';
}

// The largest unit only.
const ago = (time) => time ? duration((Date.now() - Date.parse(time)) / 1000).split(' ').slice(0, 2).join(' ') + ' ago' : '';

function number(v) {
  if (v === undefined || v === null) return '';
  v = Number(v);
  const size = Math.abs(v);
  if (v === 0) return '0';
  if (size >= 1e4) return new Intl.NumberFormat('en', {notation: 'compact', maximumSignificantDigits: 4}).format(v);
  return size < 1e-3 ? v.toExponential(2) : v.toPrecision(4);
}

function progressText(job) {
  const p = job.progress || {};
  if (job.state === 'QUEUED') return '#' + (p.queue_position || '?') + ' in queue';
  if (!Number(p.total_steps)) return p.phase || '';
  return (p.step || 0) + '/' + p.total_steps + '  ' + (100 * (p.step || 0) / p.total_steps).toFixed(0) + ' %';
}

function bar(fraction) {
  const outer = element('div', undefined, 'bar');
  const inner = element('div');
  inner.style.width = 100 * Math.min(1, Math.max(0, fraction)) + '%';
  outer.append(inner);
  return outer;
}

function drawServer(info) {
  const parts = [info.version, 'up ' + duration((Date.now() - Date.parse(info.start_time)) / 1000),
    'worker ' + (info.worker_state || 'unknown'), info.accepting_jobs ? 'accepts jobs' : 'draining'];
  byId('server').textContent = parts.join('  ·  ');
  byId('devices').replaceChildren(...(info.devices || []).map((d) => {
    const box = element('div', undefined, 'device');
    const total = Number(d.memory_total_bytes || 0), used = total - Number(d.memory_free_bytes || 0);
    const facts = ['GPU ' + (d.index || 0), d.product];
    if (d.utilization_ratio !== undefined) facts.push((100 * d.utilization_ratio).toFixed(0) + ' % busy');
    if (d.temperature_celsius !== undefined) facts.push(d.temperature_celsius.toFixed(0) + ' °C');
    if (d.power_watts !== undefined) facts.push(d.power_watts.toFixed(0) + ' W');
    box.append(element('div', facts.filter(Boolean).join('  ·  ')));
    if (total) box.append(bar(used / total), element('div', bytes(used) + ' of ' + bytes(total), 'dim'));
    return box;
  }));
}

// Running first, then the queue in its order, then what ended last.
function order(job) {
  if (ENDED.has(job.state)) return 2e9;
  return job.state === 'QUEUED' ? Number((job.progress || {}).queue_position || 1e9) : 0;
}

function drawJobs(jobs, chosen) {
  const sorted = jobs.map((job, i) => [order(job), i, job]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  byId('no-jobs').hidden = jobs.length > 0;
  byId('jobs').replaceChildren(...sorted.map(([, , job]) => {
    const id = shortName(job.name);
    const row = element('tr', undefined, id === chosen ? 'chosen' : '');
    const link = element('a', id);
    link.href = '#' + id;
    const cell = element('td');
    cell.append(link);
    row.append(cell, element('td', method(job.spec)), element('td', ((job.spec || {}).base_model || '').replace(/.*\//, '')),
      element('td', job.state, job.state), element('td', progressText(job)),
      element('td', number(((job.progress || {}).latest_metrics || {}).loss), 'num'),
      element('td', ago(job.create_time)));
    row.addEventListener('click', () => { location.hash = id; });
    return row;
  }));
}

function drawFacts(job) {
  const p = job.progress || {}, m = p.latest_metrics || {}, stats = job.dataset_stats || {};
  const facts = [
    ['step', Number(p.total_steps) ? (p.step || 0) + ' of ' + p.total_steps : ''], ['epoch', number(p.epoch)],
    ['loss', number(m.loss)], ['held-out loss', number(m.eval_loss)], ['tokens/s', number(m.tokens_per_second)],
    ['reward', number(m.reward)], ['learning rate', number(m.learning_rate)], ['elapsed', duration(seconds(p.elapsed))],
    ['remaining', ENDED.has(job.state) || !p.remaining ? '' : duration(seconds(p.remaining))],
    ['rows', stats.rows], ['tokens', stats.tokens], ['attempt', job.attempt > 1 ? job.attempt : ''],
    ['adapter', shortName(job.output_adapter)],
  ];
  const list = [];
  for (const [name, value] of facts) {
    if (value === '' || value === undefined) continue;
    const pair = element('div');
    pair.append(element('dt', name), element('dd', String(value)));
    list.push(pair);
  }
  byId('facts').replaceChildren(...list);
}

function drawCurve(title, series, format = number) {
  const W = 400, H = 150, left = 60, right = 8, top = 8, bottom = 18;
  const points = series.flatMap((s) => s.steps.map((step, i) => [Number(step), Number(s.values[i])]))
    .filter(([, y]) => Number.isFinite(y));
  if (points.length === 0) return null;
  const range = (k) => [Math.min(...points.map((p) => p[k])), Math.max(...points.map((p) => p[k]))];
  const [x0, x1] = range(0);
  let [y0, y1] = range(1);
  if (y0 === y1) { const pad = Math.abs(y0) * 0.1 || 1; y0 -= pad; y1 += pad; }
  const px = (x) => left + (W - left - right) * (x1 > x0 ? (x - x0) / (x1 - x0) : 0.5);
  const py = (y) => top + (H - top - bottom) * (1 - (y - y0) / (y1 - y0));
  const svg = svgElement('svg', {viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': title});
  for (const y of [y0, (y0 + y1) / 2, y1]) {
    svg.append(svgElement('line', {x1: left, x2: W - right, y1: py(y), y2: py(y), class: 'grid'}));
    const label = svgElement('text', {x: left - 4, y: py(y) + 3, 'text-anchor': 'end'});
    label.textContent = format(y);
    svg.append(label);
  }
  for (const [x, anchor] of x0 < x1 ? [[x0, 'start'], [x1, 'end']] : [[x0, 'middle']]) {
    const label = svgElement('text', {x: px(x), y: H - 4, 'text-anchor': anchor});
    label.textContent = x;
    svg.append(label);
  }
  const caption = element('figcaption');
  caption.append(element('strong', title));
  series.forEach((s, i) => {
    const path = [];
    s.steps.forEach((step, k) => {
      const y = Number(s.values[k]);
      if (!Number.isFinite(y)) return;
      path.push((path.length === 0 ? 'M' : 'L') + px(Number(step)).toFixed(1) + ' ' + py(y).toFixed(1));
    });
    if (path.length === 1) {
      const [x, y] = path[0].slice(1).split(' ');
      svg.append(svgElement('circle', {cx: x, cy: y, r: 2.5, class: 'dot c' + i}));
    }
    svg.append(svgElement('path', {d: path.join(''), class: 'line c' + i, 'stroke-linecap': 'round'}));
    caption.append(element('span', '━ ' + s.key + ' ' + format(s.values[s.values.length - 1]), 'swatch c' + i));
  });
  const figure = element('figure');
  figure.append(caption, svg);
  return figure;
}

function drawCurves(series) {
  const byKey = new Map(series.map((s) => [s.key, s]));
  const figures = CURVES.map(([title, keys, format]) =>
    drawCurve(title, keys.map((k) => byKey.get(k)).filter(Boolean), format));
  byId('curves').replaceChildren(...figures.filter(Boolean));
}

function measure(label, parts, whole, text, className) {
  const row = element('div', undefined, 'measure ' + (className || ''));
  const stack = element('div', undefined, 'stack');
  for (const [value, color] of parts) {
    const part = element('div', undefined, color);
    part.style.width = 100 * value / whole + '%';
    stack.append(part);
  }
  row.append(element('span', label), stack, element('span', text, 'num'));
  return row;
}

function drawMemory(job) {
  const memory = job.memory || {}, m = (job.progress || {}).latest_metrics || {};
  const total = Number(memory.total_bytes || 0), budget = Number(memory.budget_bytes || 0);
  byId('memory').hidden = total === 0;
  if (total === 0) return;
  const peak = Number(m.memory_peak_bytes || 0);
  const whole = Math.max(total, peak, budget);
  const parts = COMPONENTS.map(([field, name], i) => [Number(memory[field] || 0), 'c' + i, name]).filter((p) => p[0] > 0);
  const rows = [measure('planned', parts, whole, bytes(total))];
  if (peak > 0) {
    const cpu = budget === 0;  // there the peak is that of the whole process, which no plan bounds
    rows.push(measure('measured', [[peak, 'c7']], whole, bytes(peak), peak > total && !cpu ? 'over' : ''));
    rows.push(element('p', 'The measured peak ' + (cpu ? '(on the CPU that of the whole process) ' : '') + 'is ' +
      (100 * peak / total).toFixed(1) + ' % of the plan.', 'dim'));
  }
  if (budget > 0) rows.push(measure('budget', [[budget, 'c6']], whole, bytes(budget)));
  byId('memory-bars').replaceChildren(...rows);
  byId('memory-legend').replaceChildren(...parts.map(([value, color, name]) => {
    const item = element('li', '■ ', 'swatch ' + color);
    item.append(element('span', name + ' ' + bytes(value), 'dim'));
    return item;
  }));
  const items = (memory.items || []).slice().sort((a, b) => Number(b.bytes) - Number(a.bytes));
  byId('buffers').replaceChildren(...items.map((item) => {
    const row = element('tr');
    row.append(element('td', item.name), element('td', item.component), element('td', bytes(item.bytes), 'num'));
    return row;
  }));
}

function drawEvents(events) {
  events.sort((a, b) => Number(b.sequence) - Number(a.sequence));
  byId('events').replaceChildren(...events.map((e) => {
    const line = element('li', undefined, e.warning ? 'warning' : '');
    const time = element('time', new Date(e.time).toLocaleTimeString());
    time.dateTime = e.time;
    const s = e.state_changed, w = e.warning;
    const text = s ? (s.from || '') + ' → ' + s.to + (s.message ? ': ' + s.message : '') : w.code + ': ' + w.text;
    line.append(time, element('span', text));
    return line;
  }));
}

let shown = {id: '', update: ''};  // the job whose details are drawn, and its version

async function drawJob(id) {
  const job = await get('/api/jobs/' + encodeURIComponent(id));
  const p = job.progress || {};
  byId('job').hidden = false;
  byId('job-name').textContent = id + (job.display_name ? ' — ' + job.display_name : '');
  const state = byId('job-state');
  state.replaceChildren(element('strong', job.state, job.state),
    element('span', '  ' + (job.state_message || (ENDED.has(job.state) ? '' : p.phase || '')), 'dim'));
  byId('job-bar').firstElementChild.style.width = Number(p.total_steps) ? 100 * (p.step || 0) / p.total_steps + '%' : '0';
  drawFacts(job);
  drawMemory(job);
  const update = job.etag + ' ' + (p.step || 0);
  if (shown.id === id && shown.update === update) return;
  const keys = CURVES.flatMap(([, k]) => k).join(',');
  const [metrics, states, warnings] = await Promise.all([
    get('/api/jobs/' + encodeURIComponent(id) + '/metrics?max_points=600&keys=' + encodeURIComponent(keys)),
    get('/api/jobs/' + encodeURIComponent(id) + '/events?type=state_changed'),
    get('/api/jobs/' + encodeURIComponent(id) + '/events?type=warning')]);
  drawCurves(metrics.series || []);
  drawEvents((states.events || []).concat(warnings.events || []));
  byId('spec').textContent = JSON.stringify(job.resolved_spec || job.spec, null, 2);
  shown = {id, update};
}

const chosenJob = () => decodeURIComponent(location.hash.slice(1));

async function refresh() {
  try {
    const [server, list] = await Promise.all([get('/api/server'), get('/api/jobs')]);
    const jobs = list.jobs || [];
    drawServer(server);
    let id = chosenJob();
    if (!jobs.some((job) => shortName(job.name) === id)) {
      const first = jobs.find((job) => order(job) === 0) || jobs[0];
      id = first ? shortName(first.name) : '';
    }
    drawJobs(jobs, id);
    if (id) await drawJob(id); else byId('job').hidden = true;
    byId('offline').hidden = true;
  } catch (error) {
    byId('offline').hidden = false;
    byId('offline').textContent = 'The daemon does not answer (' + error.message + '); trying again.';
  }
}

let timer = 0;
async function loop() {
  clearTimeout(timer);
  if (!document.hidden) await refresh();
  clearTimeout(timer);
  timer = setTimeout(loop, PERIOD_MS);
}
window.addEventListener('hashchange', loop);
document.addEventListener('visibilitychange', loop);
loop();
