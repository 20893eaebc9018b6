{
  "target_defaults": {
    "default_configuration": "Release",
    "include_dirs": [ "native" ],
    "defines": [ "NDEBUG" ],
    # note: node's common.gypi turns exceptions and RTTI off and fixes a C++ standard; all three are undone here.
    "cflags!": [ "-fno-exceptions", "-fno-tree-vrp" ],
    "cflags_cc!": [ "-fno-exceptions", "-fno-rtti", "-std=gnu++17", "-std=gnu++20" ],
    "cflags": [ "-fvisibility=hidden", "-ffunction-sections", "-fdata-sections" ],
    "cflags_cc": [ "-std=c++17", "-fexceptions", "-fvisibility-inlines-hidden", "-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized" ],
    "conditions": [
      [ "OS=='mac'", {
        "xcode_settings": {
          "GCC_ENABLE_CPP_EXCEPTIONS": "YES", "GCC_ENABLE_CPP_RTTI": "YES", "CLANG_CXX_LANGUAGE_STANDARD": "c++17", "CLANG_CXX_LIBRARY": "libc++",
          "MACOSX_DEPLOYMENT_TARGET": "11.0", "GCC_SYMBOLS_PRIVATE_EXTERN": "YES", "OTHER_CFLAGS": [ "-fexceptions" ]
        }
      } ],
      [ "OS=='win'", { "msvs_settings": { "VCCLCompilerTool": { "ExceptionHandling": 1, "AdditionalOptions": [ "/std:c++17" ] } } } ]
    ]
  },
  "targets": [
    {
      "target_name": "nanochat_cpu",
      "type": "static_library",
      "sources": [ "<!@(node scripts/sources.cjs computing)" ]
    },
    {
      # What is around the computing: small rather than fast.
      "target_name": "nanochat",
      "dependencies": [ "nanochat_cpu" ],
      "sources": [ "<!@(node scripts/sources.cjs rest)" ],
      "include_dirs": [ "<!(node -p \"require('node-addon-api').include_dir\")" ],
      "defines": [ "NAPI_VERSION=9", "NAPI_CPP_EXCEPTIONS", "NODE_ADDON_API_REQUIRE_BASIC_FINALIZERS", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS" ],
      "configurations": { "Release": { "cflags!": [ "-O3" ], "cflags": [ "-Os" ] } },
      "conditions": [
        [ "OS=='linux'", {
          # note: without nodelete the addon is unmapped under its own threads when a worker_thread that loaded it exits.
          "ldflags": [ "-static-libstdc++", "-Wl,--gc-sections", "-Wl,-z,relro,-z,now", "-Wl,-z,nodelete", "-Wl,-Bsymbolic",
                       "-Wl,--version-script=<(module_root_dir)/native/exports.map" ],
          "libraries": [ "-ldl", "-lpthread" ]
        } ]
      ]
    }
  ],
  "conditions": [
    [ "OS=='linux'", {
      "targets": [
        {
          # The cage's launcher: a plain C program without Node, static where libc.a is there.
          "target_name": "nanochat-sandbox",
          "type": "executable",
          "sources": [ "native/sandbox/main.c", "native/sandbox/cage.c", "native/sandbox/supervise.c", "native/sandbox/filter.c", "native/sandbox/remove_tree.c" ],
          "cflags": [ "-std=c11", "-Wall", "-Wextra", "-Werror" ],
          "configurations": { "Release": { "cflags!": [ "-O3" ], "cflags": [ "-O2" ] } },
          "ldflags!": [ "-pthread", "-rdynamic" ],
          "ldflags": [ "-Wl,--gc-sections", "-Wl,-z,relro,-z,now" ],
          "conditions": [ [ "'<!(node scripts/static-libc.cjs)'=='1'", { "ldflags": [ "-static" ] } ] ]
        }
      ]
    } ]
  ]
}
