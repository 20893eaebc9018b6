// alone: its programs have deadlines and its checks look at every process
import { testCatalogue } from './support/sandbox-tier-suite.js'

// No file is ever opened in this tier; the program is told so in words a model understands.
testCatalogue('sealed', { E12_file_io: /FileNotFoundError/, E17_zoneinfo: /ZoneInfoNotFoundError/ })
