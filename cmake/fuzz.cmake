# edgeadapt_fuzz: the kernels with the harness of tests/fuzz around them, as a program of its own.
#
# With Clang: libFuzzer and the address and undefined-behaviour sanitizers. With another compiler: a plain loop over
# random calls, undefined behaviour stops it and tensors end at a page that cannot be touched; linked statically, so that
# an emulator runs it without a system around it.
file(GLOB _fuzz CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/tests/fuzz/*.cc)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  list(REMOVE_ITEM _fuzz ${CMAKE_CURRENT_SOURCE_DIR}/tests/fuzz/alone.cc)
  set(_sanitize -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_compile_options(edgeadapt_fuzz PRIVATE ${_sanitize})
  target_link_options(edgeadapt_fuzz PRIVATE ${_sanitize} -fsanitize=fuzzer)
  # Coverage of the kernels leads the fuzzer. What the harness compares is of no use to it and would halve its speed.
  get_target_property(_instrumented edgeadapt_fuzz SOURCES)
  set_property(SOURCE ${_instrumented} APPEND PROPERTY COMPILE_OPTIONS
    -fsanitize-coverage=inline-8bit-counters,indirect-calls,pc-table,no-prune)
else()
  target_compile_options(edgeadapt_fuzz PRIVATE -fsanitize=undefined -fsanitize-undefined-trap-on-error)
  target_link_options(edgeadapt_fuzz PRIVATE -static)
endif()
target_sources(edgeadapt_fuzz PRIVATE ${_fuzz})
