"""The formats that GDAL knows in the web application: those that it needs itself, and no other."""

from __future__ import annotations

import os

NEEDED = (
    "COG",
    "ESRI Shapefile",
    "GPKG",
    "GTiff",
    "GeoJSON",
    "JP2OpenJPEG",
    "JPEG",
    "MBTiles",  # PMTiles are written through this one
    "MEM",
    "Memory",
    "MVT",
    "PMTiles",
    "PNG",
    "VRT",  # in which rasterio describes what it warps; files of strangers are opened as named formats alone
    "WEBP",
)
"""Formats that are left."""

# All others of GDAL 3.12 as rasterio and pyogrio bring it; its setting names what is left out, not what is left.
_OTHERS = (
    "AAIGrid,ACE2,ADBC,ADRG,AIG,AIVector,AVCBin,AVCE00,AirSAR,AmigoCloud,BAG,BIGGIF,BLX,BMP,BSB,BT,"
    "BYN,CALS,CEOS,COASP,COSAR,CPG,CSV,CSW,CTG,CTable2,Carto,DAAS,DERIVED,DGN,DIMAP,DIPEx,DOQ1,"
    "DOQ2,DTED,DXF,ECRGTOC,EDIGEO,EEDA,EEDAI,EHdr,EIR,ELAS,ENVI,ERS,ESAT,ESRIC,ESRIJSON,"
    "Elasticsearch,FAST,FIT,FlatGeobuf,GDALG,GFF,GIF,GML,GNMDatabase,GNMFile,GPSBabel,GPX,"
    "GRASSASCIIGrid,GRIB,GS7BG,GSAG,GSBG,GSC,GTFS,GTI,GTX,GXF,GenBin,GeoJSONSeq,GeoRSS,HDF5,"
    "HDF5Image,HF2,HFA,HTTP,ILWIS,IRIS,ISCE,ISG,ISIS2,ISIS3,Idrisi,JAXAPALSAR,JDEM,JML,JSONFG,KML,"
    "KMLSUPEROVERLAY,KRO,L1B,LAN,LCP,LIBKML,LOSLAS,LVBAG,Leveller,MAP,MFF,MFF2,MRF,MSGN,MapML,"
    "MiraMonVector,NDF,NGSGEOID,NGW,NITF,NOAA_B,NSIDCbin,NTv2,NWT_GRC,NWT_GRD,OAPIF,ODS,OGCAPI,"
    "OGR_GMT,OGR_PDS,OGR_VRT,OSM,OZI,OpenFileGDB,PAux,PCIDSK,PCRaster,PDF,PDS,PDS4,PGDUMP,PLMOSAIC,"
    "PLSCENES,PNM,PRF,R,RIK,RMF,ROI_PAC,RPFTOC,RRASTER,RS2,RST,Rasterlite,S102,S104,S111,S57,SAFE,"
    "SAGA,SAR_CEOS,SDTS,SENTINEL2,SGI,SIGDEM,SNAP_TIFF,SNODAS,SRP,SRTMHGT,STACIT,STACTA,SXF,"
    "Selafin,TGA,TIL,TSX,Terragen,TopoJSON,USGSDEM,VDV,VFK,VICAR,WAsP,WCS,WFS,WMS,WMTS,XLSX,"
    "XPM,XYZ,ZMap,Zarr,netCDF,MapInfo File"
)


def limit_drivers(writing: bool) -> None:
    """From now on GDAL knows ``NEEDED`` alone, in this process and its children; to be called before GDAL is loaded.

    writing: leave SQLite as well, through which PMTiles are written; where strangers' files are read first it is left out.
    """
    os.environ.setdefault("CPL_LOG", os.devnull)  # or each of its two copies would complain of what it lacks anyway
    # Megabytes of each process for blocks that were read; GDAL would take a twentieth of the machine.
    os.environ.setdefault("GDAL_CACHEMAX", "64")
    os.environ["GDAL_SKIP"] = _OTHERS if writing else f"{_OTHERS},SQLite"
