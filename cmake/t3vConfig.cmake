# SPDX-License-Identifier: Apache-2.0
# find_package(t3v): the target t3v::t3v, a static library, with what it needs.
include(CMakeFindDependencyMacro)
find_dependency(OpenMP COMPONENTS C)
find_dependency(PNG)
find_dependency(ZLIB)
find_dependency(PkgConfig)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
include(${CMAKE_CURRENT_LIST_DIR}/t3vTargets.cmake)
# One file inside is C++: a program in C needs its library, not its compiler.
get_target_property(t3v_configurations t3v::t3v IMPORTED_CONFIGURATIONS)
foreach(t3v_configuration ${t3v_configurations})
  set_property(TARGET t3v::t3v PROPERTY IMPORTED_LINK_INTERFACE_LANGUAGES_${t3v_configuration} C)
endforeach()
set_property(TARGET t3v::t3v APPEND PROPERTY INTERFACE_LINK_LIBRARIES stdc++)
