# tests/kern/check_*.c: kernels against the plain C reference, once per instruction-set level.
# In a cross build the emulators of the toolchain file run them: the one of a weak CPU, which
# has the reference level only, and the one of a CPU with everything.
file(GLOB checks CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/check_*.c)
foreach(src IN LISTS checks)
  get_filename_component(name ${src} NAME_WE)
  add_executable(${name} ${src})
  target_compile_options(${name} PRIVATE ${QUIRE_WARNINGS} -Wno-missing-prototypes)
  target_compile_definitions(${name} PRIVATE ${QUIRE_TEST_DEFS})
  target_link_libraries(${name} PRIVATE quire_cpu m)
  foreach(level IN LISTS QUIRE_LEVELS)
    set(command ${name})
    if(CMAKE_CROSSCOMPILING AND level STREQUAL ref)
      set(command ${QUIRE_WEAK_EMULATOR} $<TARGET_FILE:${name}> best)
    elseif(CMAKE_CROSSCOMPILING)
      set(command ${name} best)
    endif()
    add_test(NAME ${name}_${level} COMMAND ${command} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(${name}_${level} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 300
      ENVIRONMENT "QUIRE_CPU=${level}")
  endforeach()
endforeach()
