// npm run plot -- decode.json [more.json ...] -o <folder>    -> SVG
// Each file is the output of a benchmark, of which the last line counts. The decode documents give decode-batch.svg (tokens
// per second against the batch) and decode-roof.svg (share of the roof), a kernels document decode-step.svg (where a step's
// time goes).
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'

const usage = 'npm run plot -- <output of bench decode or kernels> ... -o <folder>'
const dtypes = ['float32', 'bfloat16', 'int8', 'int4']
const depthColours = { 12: '#2a6fbb', 20: '#d1662b', 26: '#3f8f4f' }
const grey = '#8a8f98', dark = '#1f2933'

/** How often a decode step of nanochat's d12 runs each kernel, with one row and 256 keys. */
const stepKernels = [
  ['qkv', 12], ['c_proj', 12], ['mlp c_fc', 12], ['mlp c_proj', 12], ['lm_head', 1], ['decode attention', 12, 'S256'],
  ['rotary', 24], ['rmsNorm', 26], ['mix', 14], ['gatedValueEmbedding', 6], ['appendKvCache', 12]
]

const { values, positionals } = readArguments()
const documents = positionals.map(readDocument)
const plots = { ...decodePlots(documents.filter(({ benchmark }) => benchmark === 'decode')), ...stepPlot(documents.findLast(({ benchmark }) => benchmark === 'kernels')) }
mkdirSync(values.out, { recursive: true })
for (const [name, svg] of Object.entries(plots)) {
  writeFileSync(join(values.out, name), svg)
  console.log(join(values.out, name))
}

/** Rows with the most threads of each model and type; a later document's row replaces an earlier one's. */
function decodePlots(decodes) {
  if (decodes.length === 0) return {}
  const all = new Map(decodes.flatMap(({ rows }) => rows).map((row) => [`${row.depth} ${row.dtype} ${row.threads} ${row.batch}`, row]))
  const threads = Math.max(...[...all.values()].map((row) => row.threads))
  const rows = [...all.values()].filter((row) => row.threads === threads).sort((a, b) => a.batch - b.batch)
  return { 'decode-batch.svg': batchPlot(rows, threads), 'decode-roof.svg': roofPlot(rows, threads) }
}

function batchPlot(rows, threads) {
  const present = dtypes.filter((dtype) => rows.some((row) => row.dtype === dtype))
  const batches = [...new Set(rows.map(({ batch }) => batch))].sort((a, b) => a - b)
  const line = { x: 'batch', fx: 'dtype', stroke: ({ depth }) => colourOf(depth), z: 'depth' }
  const last = rows.filter((row) => row.batch === Math.max(...rows.filter(({ depth, dtype }) => depth === row.depth && dtype === row.dtype).map(({ batch }) => batch)))
  return svgOf({
    width: 120 + 210 * present.length, height: 340, marginRight: 44,
    fx: { domain: present, label: null, padding: 0.18 },
    x: { type: 'log', base: 2, domain: [batches[0], Math.max(batches.at(-1), 2)], ticks: batches, tickFormat: String, label: 'rows that decode together', labelAnchor: 'center', labelArrow: 'none' },
    y: { label: `tokens per second, all rows, ${threadText(threads)}`, grid: true, zero: true, nice: true },
    marks: [
      Plot.ruleY([0], { stroke: grey }),
      Plot.line(rows, { ...line, y: 'roofTokensPerSecond', strokeDasharray: '5 4', strokeWidth: 1.5 }),
      Plot.line(rows, { ...line, y: 'tokensPerSecond', strokeWidth: 2.2 }),
      Plot.dot(rows, { ...line, y: 'tokensPerSecond', fill: ({ depth }) => colourOf(depth), r: 3.2 }),
      Plot.text(last, { x: 'batch', y: 'tokensPerSecond', fx: 'dtype', text: ({ depth }) => `d${depth}`, fill: ({ depth }) => colourOf(depth), textAnchor: 'start', dx: 8, fontWeight: 600 }),
      Plot.text(last, { x: 'batch', y: 'roofTokensPerSecond', fx: 'dtype', text: () => 'roof', fill: ({ depth }) => colourOf(depth), textAnchor: 'start', dx: 8 })
    ]
  })
}

function roofPlot(rows, threads) {
  const batch = Math.min(...rows.map((row) => row.batch))
  const bars = rows.filter((row) => row.batch === batch)
  const present = dtypes.filter((dtype) => bars.some((row) => row.dtype === dtype))
  const depths = [...new Set(bars.map(({ depth }) => depth))].sort((a, b) => a - b)
  return svgOf({
    width: 110 + Math.max(180, 75 * present.length) * depths.length, height: 300,
    fx: { domain: depths, label: null, tickFormat: (depth) => `d${depth}`, padding: 0.12 },
    x: { domain: present, label: null, tickSize: 0 },
    y: { domain: [0, 100], label: `% of the roof, ${batch} row${batch === 1 ? '' : 's'}, ${threadText(threads)}`, grid: true },
    marks: [
      Plot.barY(bars, { fx: 'depth', x: 'dtype', y: 'percentOfRoof', fill: ({ depth }) => colourOf(depth), insetLeft: 4, insetRight: 4 }),
      Plot.text(bars, { fx: 'depth', x: 'dtype', y: 'percentOfRoof', text: ({ percentOfRoof }) => percentOfRoof.toFixed(0), dy: -8, fill: dark, fontWeight: 600 }),
      Plot.ruleY([0, 100], { stroke: grey })
    ]
  })
}

/** The matrix products of a type with the kernels between them, which for int8 and int4 are those of bfloat16. */
function stepPlot(kernels) {
  if (kernels === undefined) return {}
  const ofStep = kernels.rows.filter(({ rows, model, isa }) => rows === 1 && model !== 'd20' && isa === kernels.rows[0].isa)
  const present = dtypes.filter((dtype) => ofStep.some((row) => row.kernel === 'qkv' && row.dtype === dtype))
  const bars = present.flatMap((dtype) => stepKernels.map(([kernel, count, shape = '']) => {
    const of = (wanted) => ofStep.find((row) => row.kernel === kernel && row.dtype === wanted && row.shape.includes(shape))
    const row = of(dtype) ?? of('bfloat16') ?? of('float32')
    if (row === undefined) fail(`Expected a row of ${kernel} for d12 in the kernels document: run it without --filter and with bfloat16 among its types.`)
    return { kernel, dtype, us: count * row.us, peakUs: row.bound === 'cache' ? null : count * row.us * row.percentOfPeak / 100 }
  }))
  const totals = present.map((dtype) => ({ dtype, us: bars.filter((bar) => bar.dtype === dtype).reduce((sum, { us }) => sum + us, 0) }))
  const most = Math.max(...bars.map(({ us }) => us))
  const svg = svgOf({
    width: 150 + 290 * present.length, height: 360, marginLeft: 150, marginRight: 30,
    fx: { domain: present, label: null, padding: 0.14, tickFormat: (dtype) => `${dtype}, together ${(totals.find((total) => total.dtype === dtype).us / 1000).toFixed(1)} ms` },
    x: { domain: [0, most * 1.18], label: 'µs per decode step of a d12, all layers, one row, 256 keys, one thread', labelAnchor: 'center', labelArrow: 'none', grid: true, ticks: 4 },
    y: { domain: stepKernels.map(([kernel]) => kernel).sort((a, b) => longest(bars, b) - longest(bars, a)), label: null, tickSize: 0 },
    marks: [
      Plot.barX(bars, { fx: 'dtype', x: 'us', y: 'kernel', fill: depthColours[12], insetTop: 2.5, insetBottom: 2.5 }),
      Plot.tickX(bars.filter(({ peakUs }) => peakUs !== null), { fx: 'dtype', x: 'peakUs', y: 'kernel', stroke: dark, strokeWidth: 2 }),
      Plot.text(bars, { fx: 'dtype', x: 'us', y: 'kernel', text: ({ us }) => us.toFixed(us < 10 ? 1 : 0), textAnchor: 'start', dx: 5, fill: dark }),
      Plot.text(["dark line: the time\nat the machine's peak"], { frameAnchor: 'bottom-right', fx: present.slice(0, 1), fill: grey, dx: -4, dy: -8 }),
      Plot.ruleX([0], { stroke: grey })
    ]
  })
  return { 'decode-step.svg': svg }
}

function longest(bars, kernel) {
  return Math.max(...bars.filter((bar) => bar.kernel === kernel).map(({ us }) => us))
}

function colourOf(depth) {
  return depthColours[depth] ?? dark
}

function threadText(threads) {
  return `${threads} thread${threads === 1 ? '' : 's'}`
}

/** A file of its own: with the namespace, on white. */
function svgOf(options) {
  const { document } = parseHTML('<html><body></body></html>')
  const style = { background: 'white', color: dark, fontFamily: 'Helvetica, Arial, "DejaVu Sans", sans-serif', fontSize: '12px' }
  const svg = Plot.plot({ marginLeft: 52, marginBottom: 42, marginTop: 46, ...options, style, document })
  svg.setAttribute('xmlns', 'http://www.w3.org/2000/svg')
  const background = document.createElementNS('http://www.w3.org/2000/svg', 'rect')
  for (const [key, value] of Object.entries({ width: '100%', height: '100%', fill: 'white' })) background.setAttribute(key, value)
  svg.insertBefore(background, svg.firstChild)
  return `${svg.outerHTML}\n`
}

function readDocument(path) {
  let document
  try {
    document = JSON.parse(readFileSync(path, 'utf8').trimEnd().split('\n').at(-1))
  } catch (error) {
    fail(`Expected the output of a benchmark, whose last line is a JSON document, but ${path}: ${error.message}`)
  }
  if (!['decode', 'kernels'].includes(document?.benchmark) || !(document.rows?.length > 0)) fail(`Expected a document of bench decode or bench kernels in ${path} but found ${document?.benchmark}.`)
  return document
}

function readArguments() {
  try {
    const parsed = parseArgs({ options: { out: { type: 'string', short: 'o', default: 'docs/plots' } }, allowPositionals: true })
    if (parsed.positionals.length > 0) return parsed
  } catch (error) {
    fail(`${error.message}\n${usage}`)
  }
  fail(usage)
}

function fail(message) {
  console.error(message)
  process.exit(2)
}
