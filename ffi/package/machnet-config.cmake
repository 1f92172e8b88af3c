# find_package(machnet): machnet::machnet is the shared library, machnet::static the static one.
get_filename_component(_machnet_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET machnet::machnet)
  add_library(machnet::machnet SHARED IMPORTED)
  set_target_properties(machnet::machnet PROPERTIES
    IMPORTED_LOCATION "${_machnet_prefix}/lib/libmachnet.so"
    IMPORTED_SONAME "libmachnet.so.0"
    INTERFACE_INCLUDE_DIRECTORIES "${_machnet_prefix}/include")
  add_library(machnet::static STATIC IMPORTED)
  set_target_properties(machnet::static PROPERTIES
    IMPORTED_LOCATION "${_machnet_prefix}/lib/libmachnet.a"
    IMPORTED_LINK_INTERFACE_LANGUAGES "C"
    INTERFACE_INCLUDE_DIRECTORIES "${_machnet_prefix}/include"
    INTERFACE_LINK_LIBRARIES "pthread;dl;m")
endif()
unset(_machnet_prefix)
