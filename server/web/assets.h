#pragma once

namespace finetuned::web {

// page.html, page.css and page.js, made by the build.
extern const char k_pagehtml[];
extern const char k_pagecss[];
extern const char k_pagejs[];

}  // namespace finetuned::web
