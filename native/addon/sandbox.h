#pragma once
#include <napi.h>

// Adds `startSandboxThread` to the exports: processes started, watched and ended away from the event loop (lib/sandbox-process.ts).
void init_sandbox(Napi::Env env, Napi::Object exports);
