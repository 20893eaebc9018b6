// alone: its programs have deadlines and its checks look at every process
import { testCatalogue } from './support/sandbox-tier-suite.js'

// Every program runs in the tier that is chosen first (sandbox-full.test.ts) and, in test:long, in these.
testCatalogue('container', 4)
testCatalogue('sealed', 4)
