// docs/reference.md from the docstrings of what `nanochat-node`, `nanochat-node/kernels` and `nanochat-node/server` export, and what is missing in them.
//   node --import tsx scripts/reference.ts [--check]
// TypeScript's own compiler reads them. TypeDoc would be 26 MB more to install, and does not look at parameters and errors.
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const modules = { 'nanochat-node': 'lib/index.ts', 'nanochat-node/kernels': 'lib/kernels.ts', 'nanochat-node/server': 'lib/server/server.ts' }
const page = join(root, 'docs', 'reference.md')

const intro = `# API reference

Made from the docstrings in \`lib/\` by \`npm run reference\`; the tour with examples is [api.md](api.md), the kernels' is [kernels.md](kernels.md), the server's
[server.md](server.md), the equations are in [MODEL.md](MODEL.md). Options that may be left out are marked with \`?\`. Asynchronous functions reject with what is listed as thrown.
`

/** Something exported, or a member of it, with the docstring that belongs to it. */
interface Entry { name: string, node: ts.Declaration, doc: string, members: Entry[] }

export interface Reference {
  markdown: string
  /** What is exported and not, or not fully, documented: one line each. */
  problems: string[]
}

/** Reads entry points: module name -> file, relative to `directory`. */
export function readReference(files: Record<string, string> = modules, directory: string = root): Reference {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile) as { config: object }
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root)
  const program = ts.createProgram(Object.values(files).map((file) => join(directory, file)), options)
  const checker = program.getTypeChecker()
  const entriesOf = (file: string): Entry[] => {
    const source = program.getSourceFile(join(directory, file))
    const symbol = source && checker.getSymbolAtLocation(source)
    if (!symbol) throw new Error(`${file} is not there or exports nothing`)
    return checker.getExportsOfModule(symbol).map((exported) => {
      const target = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported
      const node = target.declarations?.[0]
      if (!node) throw new Error(`${exported.name} has no declaration`)
      return entry(exported.name, node)
    })
  }
  const byModule = Object.entries(files).map(([name, file]) => ({ name, entries: entriesOf(file) }))
  const exported = new Set(byModule.flatMap(({ entries }) => entries.map(({ node }) => node)))
  const codes = new Set<string>()
  const names = new Set<string>()
  for (const { name, node, members } of byModule.flatMap(({ entries }) => entries)) {
    names.add(name)
    for (const member of members) names.add(member.name)
    const type = name === 'ErrorCode' && checker.getTypeAtLocation(node)
    for (const one of type && type.isUnion() ? type.types : []) if (one.isStringLiteral()) codes.add(one.value)
  }
  const problems = byModule.flatMap(({ entries }) => entries.flatMap((one) => problemsOf(one, { codes, names, missingType: (node) => missingType(checker, exported, node) })))
  const sections = byModule.map(({ name, entries }) => `## ${name}\n\n${entries.map(({ name }) => `[${name}](#${name.toLowerCase()})`).join(' · ')}\n\n${entries.map(section).join('\n')}`)
  return { markdown: `${intro}\n${sections.join('\n')}`, problems: [...new Set(problems)] }
}

function entry(name: string, node: ts.Declaration): Entry {
  return { name, node, doc: docOf(node), members: membersOf(node).filter(isPublic).map((member) => entry(nameOf(member), member)) }
}

function membersOf(node: ts.Declaration): readonly ts.Declaration[] {
  if (ts.isClassDeclaration(node) || ts.isInterfaceDeclaration(node)) return node.members
  if (!ts.isTypeAliasDeclaration(node)) return []
  if (ts.isTypeLiteralNode(node.type)) return node.type.members
  // note: the cases of a union of object types are shown as members; each has a docstring of its own.
  const cases: readonly ts.TypeNode[] = ts.isUnionTypeNode(node.type) ? node.type.types : []
  const literals = cases.filter(ts.isTypeLiteralNode)
  return literals.length === cases.length ? literals : []
}

function isPublic(node: ts.Declaration): boolean {
  const hidden = ts.canHaveModifiers(node) && ts.getModifiers(node)?.some(({ kind }) => kind === ts.SyntaxKind.PrivateKeyword || kind === ts.SyntaxKind.ProtectedKeyword)
  const name = ts.getNameOfDeclaration(node)
  return !hidden && !ts.getJSDocTags(node).some(({ tagName }) => tagName.text === 'internal') && !(name && ts.isPrivateIdentifier(name))
}

function nameOf(node: ts.Declaration): string {
  if (ts.isConstructorDeclaration(node)) return 'constructor'
  const name = ts.getNameOfDeclaration(node)
  return name?.getText() ?? node.getText().replace(/\s+/g, ' ')
}

/** The last docstring before the node, without the stars. Tags are not used. That of a union's case stands before its `|`. */
function docOf(node: ts.Node): string {
  const source = node.getSourceFile().text
  const union = ts.isUnionTypeNode(node.parent) ? node.parent : null
  const start = union ? union.types[union.types.indexOf(node as ts.TypeNode) - 1]?.end ?? union.pos : node.getFullStart()
  const comments = (ts.getLeadingCommentRanges(source, start) ?? []).map(({ pos, end }) => source.slice(pos, end)).filter((text) => text.startsWith('/**'))
  return (comments.at(-1) ?? '').replace(/^\/\*\*|\*\/$/g, '').replace(/^[ \t]*\* ?/gm, '').trim()
}

function parametersOf(node: ts.Node): readonly ts.ParameterDeclaration[] {
  if (ts.isTypeAliasDeclaration(node) || ts.isPropertySignature(node)) return node.type && ts.isFunctionTypeNode(node.type) ? node.type.parameters : []
  return ts.isFunctionLike(node) ? node.parameters : []
}

interface Known { codes: ReadonlySet<string>, names: ReadonlySet<string>, missingType: (node: ts.Declaration) => string[] }

function problemsOf({ name, node, doc, members }: Entry, known: Known, owner = ''): string[] {
  const where = `${relative(root, node.getSourceFile().fileName)}: ${owner}${name}`
  if (doc === '') return [`${where} has no docstring`, ...members.flatMap((member) => problemsOf(member, known, `${owner}${name}.`))]
  const problems: string[] = []
  for (const code of doc.match(/\bERR_[A-Z_]+/g) ?? []) if (!known.codes.has(code)) problems.push(`${where} names ${code}, which is no ErrorCode`)
  for (const [, other = ''] of doc.matchAll(/\{@link ([\w.]+)\}|(?:Throws|Rejects) as `([\w.]+)`/g)) {
    if (other && !known.names.has(other) && !other.split('.').every((part) => known.names.has(part))) problems.push(`${where} refers to ${other}, which is not exported`)
  }
  const isImplemented = ts.isFunctionDeclaration(node) || ts.isMethodDeclaration(node) || ts.isConstructorDeclaration(node) || ts.isMethodSignature(node)
  const parameters = parametersOf(node)
  if (isImplemented && parameters.length > 0 && !/\b(?:Throws|Rejects)\b[^.]*(?:\bERR_|\bas `\w+`)|\b(?:Throws|Rejects with) nothing\b/.test(doc)) {
    problems.push(`${where} does not say what it throws`)
  }
  for (const parameter of parameters) {
    const parameterName = parameter.name.getText()
    const isOptions = ['options', 'context'].includes(parameterName)
    if (!isOptions && ts.isIdentifier(parameter.name) && !isNamed(doc, parameterName)) problems.push(`${where} does not speak of its parameter ${parameterName}`)
  }
  for (const { property, docs } of inlineProperties(node, doc)) {
    const propertyName = nameOf(property)
    if (docOf(property) === '' && !isNamed(docs, propertyName)) problems.push(`${where} does not speak of ${propertyName}`)
  }
  for (const type of known.missingType(node)) problems.push(`${where} uses the type ${type}, which is not exported`)
  return [...problems, ...members.flatMap((member) => problemsOf(member, known, `${owner}${name}.`))]
}

function isNamed(doc: string, name: string): boolean {
  return new RegExp(`(?<![\\w$])${name.replace(/[$[\].]/g, '\\$&')}(?![\\w$])`).test(doc)
}

/** Properties of object types that are written out in a signature or a member's type, with the docstrings around them. */
function inlineProperties(node: ts.Node, doc: string): { property: ts.TypeElement, docs: string }[] {
  const found: { property: ts.TypeElement, docs: string }[] = []
  const visit = (child: ts.Node, docs: string): void => {
    if (ts.isBlock(child) || ts.isClassElement(child)) return
    if (ts.isTypeLiteralNode(child)) for (const property of child.members) found.push({ property, docs })
    ts.forEachChild(child, (inner) => visit(inner, ts.isPropertySignature(child) ? `${docs} ${docOf(child)}` : docs))
  }
  if (ts.isClassDeclaration(node) || ts.isInterfaceDeclaration(node) || ts.isTypeLiteralNode(node)) return []
  if (ts.isTypeAliasDeclaration(node) && membersOf(node).length > 0) return []
  ts.forEachChild(node, (child) => visit(child, doc))
  return found
}

/** Types of the package that a signature needs and no entry point exports. */
function missingType(checker: ts.TypeChecker, exported: ReadonlySet<ts.Declaration>, node: ts.Declaration): string[] {
  const missing: string[] = []
  const hasMembers = membersOf(node).length > 0
  const visit = (child: ts.Node): void => {
    if (ts.isBlock(child) || (hasMembers && (ts.isClassElement(child) || ts.isTypeElement(child) || ts.isTypeLiteralNode(child)))) return
    if (ts.isTypeReferenceNode(child)) {
      const symbol = checker.getSymbolAtLocation(child.typeName)
      const target = symbol && symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol
      const declaration = target?.declarations?.[0]
      const isOurs = declaration && !ts.isTypeParameterDeclaration(declaration) && !declaration.getSourceFile().isDeclarationFile
      if (isOurs && !exported.has(declaration)) missing.push(child.typeName.getText())
    }
    ts.forEachChild(child, visit)
  }
  ts.forEachChild(node, visit)
  return missing
}

function section({ name, node, doc, members }: Entry): string {
  return `### ${name}\n\n\`\`\`ts\n${declarationOf(node)}\n\`\`\`\n\n${inMarkdown(doc)}\n${members.length === 0 ? '' : `\n${members.map(memberLine).join('\n')}\n`}`
}

function memberLine({ name, node, doc }: Entry): string {
  const declaration = (ts.isTypeLiteralNode(node) ? name : declarationOf(node)).replace(/\/\*\*.*?\*\//gs, '').replace(/(?<=[\w\])>])\n\s*(?=\w)/g, ', ').replace(/\s+/g, ' ')
  return `- \`${declaration}\`: ${inMarkdown(doc).replace(/\s*\n\s*/g, ' ')}`
}

/** Without bodies, members, `export` and the `| undefined` of optional properties. */
function declarationOf(node: ts.Declaration): string {
  const source = node.getSourceFile().text
  const start = node.getStart()
  const end = ts.isClassDeclaration(node) || ts.isInterfaceDeclaration(node) ? node.members.pos - 1
    : ts.isFunctionLike(node) && 'body' in node && node.body ? node.body.pos
      : ts.isTypeAliasDeclaration(node) && membersOf(node).length > 0 ? node.name.end : node.end
  const text = source.slice(start, end).trim().replace(/^export /, '').replace(/^async /, '').replace(/,$/, '')
  return 'questionToken' in node && node.questionToken ? text.replace(/ \| undefined$/, '').replace(/: \((\(.*\) => .+)\)$/, ': $1') : text
}

function inMarkdown(doc: string): string {
  const prose = (text: string): string => text.replaceAll('<', '\\<').replaceAll('MODEL.md', '[MODEL.md](MODEL.md)')
    .replace(/\{@link ([\w.]+)\}/g, (_, name: string) => `[${name}](#${name.split('.')[0]?.toLowerCase()})`)
  return doc.split('`').map((text, i) => i % 2 === 0 ? prose(text) : text).join('`')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { markdown, problems } = readReference()
  for (const problem of problems) console.error(problem)
  const isCurrent = markdown === readFileSync(page, { encoding: 'utf8', flag: 'a+' })
  if (process.argv.includes('--check') && !isCurrent) console.error('docs/reference.md is not what the docstrings say: npm run reference')
  if (!process.argv.includes('--check')) writeFileSync(page, markdown)
  process.exitCode = problems.length > 0 || (process.argv.includes('--check') && !isCurrent) ? 1 : 0
}
