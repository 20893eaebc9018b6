// alone: its programs have deadlines and its checks look at every process
import { testCatalogue } from './support/sandbox-tier-suite.js'

testCatalogue('container')
testCatalogue('sealed')
