// Runs the public HTTP cache suite against a cache and prints its results as one line of JSON.
//
//   node run.mjs FOLDER mirror|forward CACHE [ID ...]
//
// FOLDER holds the suite: the npm package, or a checkout of its repository, which has another layout. The suite's
// origin listens on a free port of the loopback interface, in this process. CACHE is where the cache listens:
// `mirror` asks it for CACHE/http/ORIGIN/..., `forward` asks it in absolute form, as proxies are asked. With IDs,
// those cases alone are run.
import fs from 'node:fs'
import http from 'node:http'
import path from 'node:path'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const [folder, route, cache, ...ids] = process.argv.slice(2)
const DEADLINE_MS = 300_000
setTimeout(() => {
  process.stderr.write(`no end after ${DEADLINE_MS} ms\n`)
  process.exit(3)
}, DEADLINE_MS).unref()
// The suite talks to people on stdout.
console.log = console.error

const checkout = fs.existsSync(path.join(folder, 'test-engine'))
const engine = checkout ? 'test-engine' : '.'
const load = file => import(pathToFileURL(path.resolve(folder, file)))
const { runTests, getResults } = await load(`${engine}/client/runner.mjs`)
const { default: suites } = await load('tests/index.mjs')

const origin = await listen()
const base = route === 'mirror' ? `${cache}/http/${origin}` : `http://${origin}`
const wanted = suites.map(suite => ({ ...suite, tests: suite.tests.filter(isWanted) }))
if (checkout) {
  if (route !== 'mirror') throw new Error('the repository edition can only be run through the mirror')
  await runTests(wanted, false, base)
} else {
  await runTests(wanted, clientOf(route), false, base)
}
const results = getResults()
const lines = wanted.flatMap(suite => suite.tests).map(test => {
  const result = results[test.id]
  return {
    id: test.id,
    kind: test.kind || 'required',
    depends_on: test.depends_on || [],
    pass: result === true,
    why: result === true ? '' : (result || ['not run']).join(': ')
  }
})
process.stdout.write(JSON.stringify(lines) + '\n', () => process.exit(0))

function isWanted (test) {
  return !test.browser_only && (ids.length === 0 || ids.includes(test.id))
}

async function listen () {
  const handlers = {}
  for (const name of ['config', 'state', 'test']) {
    handlers[name] = (await load(`${engine}/server/handle-${name}.mjs`)).default
  }
  const server = http.createServer((request, response) => {
    const segments = new URL(request.url, 'http://origin').pathname.split('/').slice(1)
    const handler = handlers[segments.shift()]
    if (handler) handler(segments, request, response)
    else response.writeHead(404).end()
  })
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  return `127.0.0.1:${server.address().port}`
}

// The suite's own client, which takes an agent. This one asks the proxy in place of the origin, in absolute form.
function clientOf (route) {
  const fetch = createRequire(path.resolve(folder, 'cli.mjs'))('node-fetch')
  if (route === 'mirror') return fetch
  const proxy = new URL(cache)
  class Proxied extends http.Agent {
    addRequest (request, options) {
      request.path = `http://${options.host}:${options.port}${request.path}`
      super.addRequest(request, { ...options, host: proxy.hostname, hostname: proxy.hostname, port: proxy.port })
    }
  }
  const agent = new Proxied()
  return (url, init) => fetch(url, { ...init, agent })
}
